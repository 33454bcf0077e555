"""Verdicts: what one step was predicted to do, what it did, and how the two compare."""
