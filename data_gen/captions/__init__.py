"""Collect captions: from files, data sets or the shapes world, filtered and sampled with a seed."""
