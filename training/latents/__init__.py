"""Latents of before training: the stage, how pairs are encoded, and unit by unit."""

from training.latents.stage import latents

__all__ = ["latents"]
