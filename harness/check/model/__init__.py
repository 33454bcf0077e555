"""Models of what a CPU may do between and within steps: memory, caches, instructions, delivery."""
