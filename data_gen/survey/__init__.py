"""Look at a data set: verify it, count what became of what, see its pairs."""
