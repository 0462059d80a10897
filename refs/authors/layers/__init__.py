"""One manifest (NAME.toml: what, where, which bytes, which map) and one driver (NAME.py: how it is built for a case) per author's layer."""
