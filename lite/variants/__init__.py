"""The methods, one file each. A file opens with the formula, why it is the identity at init, departures, sources."""
