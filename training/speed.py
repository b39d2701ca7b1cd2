"""What makes a step faster or smaller and leaves what it computes as it is, but for rounding."""

from dataclasses import dataclass
from typing import Final

import torch
from diffusers import UNet2DConditionModel

from inference.compilation import compile_blocks
from training.precision import checkpointed

COMPILED: Final = frozenset({"BasicTransformerBlock", "ResnetBlock2D"})
"""What is compiled: diffusers' own list for a UNet, and the blocks that are not on it."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Knobs of the UNet in training; a run may go on with others.

    Attributes:
        gradient_checkpointing: Keep no activations within a block and compute them again for the
            gradient: a third more time, for batches that would not fit otherwise.
        channels_last: Lay out convolutions as GPUs with tensor cores read them.
        compile: Compile each kind of block once (regional compilation); the first step takes a
            minute, those after it less time than without.
        tf32: Let GPUs multiply float32 matrices with 10 bits of mantissa, several times as fast;
            torch does so for convolutions anyway.
    """

    gradient_checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False


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
