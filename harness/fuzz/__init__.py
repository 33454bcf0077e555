"""Random questions: what the matrix does not enumerate."""
