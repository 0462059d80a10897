"""The committed pages: rendered from a full run, checked against one. Nothing in `reports/` is written by hand."""
