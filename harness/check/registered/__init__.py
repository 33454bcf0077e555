"""Registered divergences: what an engine is known to do wrong, when, and who says so."""
