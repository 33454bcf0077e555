"""The commands of ``harness.cli``, one a file."""
