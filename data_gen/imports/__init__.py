"""Make a data set of pairs that others made."""
