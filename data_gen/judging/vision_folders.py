"""Load vision models from local transformers folders, and show them pictures.

A weight that is missing would be made up at random without a word; here it is an error.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from data_gen.records import ImageArray
from inference.loading import load_model, load_tokenizer

IMAGES_AT_ONCE: Final = 64
"""Images that a model sees at once; its results move by rounding with it, so it is not a knob."""


def require_vision_model(folder: Path) -> None:
    """Require, without loading it, that a folder holds a model.

    Raises:
        FileNotFoundError: It does not.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"there is no model in {folder}: it has no config.json")


def require_processor(folder: Path) -> None:
    """Require, without loading it, that a folder holds an image processor.

    Raises:
        FileNotFoundError: It does not.
    """
    if not (folder / "preprocessor_config.json").is_file():
        raise FileNotFoundError(f"{folder} has no preprocessor_config.json")


def load_vision_model(kind: Any, folder: Path, device: torch.device) -> Any:
    """Load a model in fp32, for looking only.

    Args:
        kind: Its class, or an Auto class.
        folder: ``config.json`` and safetensors.
        device: Where to put it.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The weights are not there, or are not those of such a model.
    """
    require_vision_model(folder)
    return load_model(kind, folder).to(device).eval().requires_grad_(False)


def load_processor(folder: Path) -> Any:
    """Load what turns pictures into a model's input.

    Raises:
        FileNotFoundError: The folder has none.
        ValueError: It is broken.
    """
    require_processor(folder)
    return load_tokenizer(AutoImageProcessor, folder)


def inputs(images: Sequence[ImageArray], processor: Any, device: torch.device) -> Iterator[Tensor]:
    """Yield pictures, (H, W, 3) uint8 each, as batches of model inputs (B, 3, h, w)."""
    for first in range(0, len(images), IMAGES_AT_ONCE):
        some = list(images[first : first + IMAGES_AT_ONCE])
        yield processor(images=some, return_tensors="pt").pixel_values.to(device)
