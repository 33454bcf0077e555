"""Text and diagrams of a walk, a fault, a run and a table."""
