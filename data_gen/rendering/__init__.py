"""Render pairs: Prompt-to-Prompt with random p, by a prefix tree over p."""
