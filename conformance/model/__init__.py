"""`python -m conformance model`: a transformers checkpoint of somebody's, and an adapter of theirs, looked at layer by layer."""
