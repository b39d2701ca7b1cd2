"""What makes a step faster or smaller and leaves what it computes as it is, but for rounding."""

from typing import Final

import torch
from diffusers import UNet2DConditionModel

from inference.compilation import compile_blocks
from training.config import Speed
from training.precision import checkpointed

COMPILED: Final = frozenset({"BasicTransformerBlock", "ResnetBlock2D"})
"""What is compiled: diffusers' own list for a UNet, and the blocks that are not on it."""


def lay_out(unet: UNet2DConditionModel, knobs: Speed) -> None:
    """Put a UNet's weights into memory as asked, before its average is made of it."""
    if knobs.channels_last:
        unet.to(memory_format=torch.channels_last)


def speed_up(unet: UNet2DConditionModel, knobs: Speed) -> None:
    """Prepare the UNet in training, in place; names of its weights stay as they are."""
    if knobs.gradient_checkpointing:
        unet.enable_gradient_checkpointing(checkpointed)
    if knobs.compile:
        compile_blocks(unet, COMPILED)
