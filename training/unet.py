"""Widen a text-to-image UNet so that it also sees the image it is to edit.

InstructPix2Pix (Brooks et al. 2023, section 3.2) concatenates the latents of the input image to
the noisy latents, so the first convolution takes 8 channels where its parent's took 4. At the
start the new channels weigh nothing: the widened network *is* its parent.
"""

from copy import deepcopy

import torch
from diffusers import UNet2DConditionModel
from torch import nn


def widen(unet: UNet2DConditionModel, in_channels: int = 8) -> UNet2DConditionModel:
    """Return a copy of a UNet whose first convolution takes `in_channels` channels.

    The parent's weights and its bias are copied, the weights of the new channels are zero. A UNet
    that already takes `in_channels` (an editor to be trained further) is copied as it is.

    Args:
        unet: The parent, with at most `in_channels` input channels. It is left alone.
        in_channels: Channels of the noisy latents plus those of the image condition.

    Raises:
        ValueError: The parent already takes more channels than that.
    """
    if unet.config.in_channels > in_channels:
        raise ValueError(
            f"the base UNet takes {unet.config.in_channels} input channels, "
            f"expected at most {in_channels}"
        )
    widened = deepcopy(unet)
    if unet.config.in_channels < in_channels:
        widened.conv_in = _widened_convolution(unet.conv_in, in_channels)
        widened.register_to_config(in_channels=in_channels)
    return widened


def _widened_convolution(parent: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    child = nn.Conv2d(
        in_channels,
        parent.out_channels,
        parent.kernel_size,  # type: ignore[arg-type]
        stride=parent.stride,  # type: ignore[arg-type]
        padding=parent.padding,  # type: ignore[arg-type]
        device=parent.weight.device,
        dtype=parent.weight.dtype,
    )
    with torch.no_grad():
        child.weight.zero_()
        child.weight[:, : parent.in_channels] = parent.weight
        # diffusers' own trainers leave this at random, so that step 0 is not the base model (#4960)
        assert child.bias is not None
        assert parent.bias is not None
        child.bias.copy_(parent.bias)
    return child
