"""Decide which candidates become training pairs."""
