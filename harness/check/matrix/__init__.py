"""Matrices: every combination of a space of entries, CPU states and accesses, in columns."""
