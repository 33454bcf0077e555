"""Findings: what a campaign found, how often, and the files that show it again."""
