"""Whole models: lite beside peft on the same base, where a layer that is right alone can be wrong."""
