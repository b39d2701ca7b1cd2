"""How much a training step computes, counted once, and how much a device could."""

from typing import Final

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

PEAKS: Final = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bf16 TFLOP/s on the makers' data sheets, by a part of the device's name; first match."""


def peak_of(device: torch.device) -> float | None:
    """Peak bf16 TFLOP/s of a device; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def training_flops(
    blank: UNet2DConditionModel, *, height: int, width: int, text_length: int
) -> float:
    """FLOP of the UNet for one sample, forwards and backwards; a product and a sum are two.

    What encodes images and text is not counted: it is no part of what is trained.

    Args:
        blank: A UNet on the meta device, on which nothing is computed.
        height: Of the latents; so is `width`.
        width: Of the latents.
        text_length: Tokens of a prompt.
    """
    config = blank.config
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        added = None
        if config.addition_embed_type == "text_time":
            sizes = 6 * config.addition_time_embed_dim
            pooled = config.projection_class_embeddings_input_dim - sizes
            added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        output = blank(
            torch.empty(1, config.in_channels, height, width),
            torch.empty(1),
            encoder_hidden_states=torch.empty(1, text_length, config.cross_attention_dim),
            added_cond_kwargs=added,
        ).sample
        output.sum().backward()
    return float(counter.get_total_flops())
