"""Latents of before training: the stage, how pairs are encoded, and unit by unit."""
