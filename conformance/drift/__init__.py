"""What changed between releases of peft, for the methods that have a suite: their numbers, and the verdicts beside them."""
