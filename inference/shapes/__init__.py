"""The embedded world: scenes, their language, their reader, and small models trained on them."""

from pathlib import Path
from typing import Final

MODELS: Final = Path(__file__).parent / "models"
"""Folder of the shipped models: `stable-diffusion`, `clip`, `writer` and `instruct-pix2pix`."""
