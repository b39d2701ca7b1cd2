"""Stable Diffusion as one file with the original names: read, recognised and written."""
