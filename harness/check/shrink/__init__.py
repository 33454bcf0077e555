"""Shrinking: the smallest question that still differs for the same cause."""
