"""The first convolution of a UNet: what tells an editor from the model it was made from.

InstructPix2Pix (Brooks et al. 2023, section 3.2) concatenates the latents of the input image to the
noisy latents, so the convolution takes twice the channels.
"""

from pathlib import Path
from typing import Final

from diffusers import UNet2DConditionModel
from torch import nn

from inference.tensors import read_tensors

INPUT_LAYER: Final = "conv_in.safetensors"
"""File of an input layer beside the LoRA that was trained with it: `weight` and `bias`."""


def load_input_layer(unet: UNet2DConditionModel, file: str | Path) -> None:
    """Give a UNet the input layer of a file, in place, whatever the channels of its own.

    With it and `pipeline.load_lora_weights(folder)` a stock InstructPix2Pix pipeline around the
    base's UNet is the editor: `load_input_layer(pipeline.unet, folder / "conv_in.safetensors")`.

    Args:
        unet: Of the model that the layer was trained with.
        file: Holds `weight`, (C, channels, k, k), and `bias`, (C,).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an input layer of this UNet.
    """
    _, tensors = read_tensors(Path(file), "cpu")
    own = unet.conv_in
    channels = tensors["weight"].shape[1] if "weight" in tensors else 0
    expected = {
        "weight": (own.out_channels, channels, *own.kernel_size),
        "bias": (own.out_channels,),
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or channels == 0:
        raise ValueError(f"{file} holds {found}; expected {expected}, the input layer of this UNet")
    layer = nn.Conv2d(
        channels,
        own.out_channels,
        own.kernel_size,
        stride=own.stride,
        padding=own.padding,
        device=own.weight.device,
        dtype=own.weight.dtype,
    )
    layer.load_state_dict(tensors)
    unet.conv_in = layer.requires_grad_(False)
    unet.register_to_config(in_channels=channels)
