"""How fast and how large: lite's layers beside peft's and loralib's, attaching, saving and loading, and the suites themselves."""
