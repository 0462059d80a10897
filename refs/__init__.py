"""References: what a case is, how its numbers are made, and the layers that say what is right."""
