"""Tests of lite itself: its runtime, its files and its edges. Whether a method is the method stands in conformance/."""
