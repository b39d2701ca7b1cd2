"""Models of Stable Diffusion's shapes, where its weights cannot be had: 1.5 and XL, at random."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from inference.backbone import Backbone, load_backbone
from inference.saving import save_backbone
from inference.shapes import MODELS


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model's shape is a matter of size; its layout of blocks is the family's.

    Attributes:
        vae: Channels of the VAE's levels.
        unet: Channels of the UNet's levels.
        text: Widths of the text encoders; two for XL.
        text_layers: Their layers.
        head: Channels of an attention head of the text encoders.
        latents: Side of the latents that the UNet is made for.
    """

    vae: tuple[int, ...]
    unet: tuple[int, ...]
    text: tuple[int, ...]
    text_layers: int
    head: int
    latents: int


SD15: Final = Shape(
    vae=(128, 256, 512, 512),
    unet=(320, 640, 1280, 1280),
    text=(768,),
    text_layers=12,
    head=64,
    latents=64,
)
SDXL: Final = Shape(
    vae=(128, 256, 512, 512),
    unet=(320, 640, 1280),
    text=(768, 1280),
    text_layers=12,
    head=64,
    latents=128,
)
TINY_SD15: Final = Shape(
    vae=(32, 32), unet=(32, 64), text=(64,), text_layers=2, head=32, latents=16
)
TINY_SDXL: Final = Shape(
    vae=(32, 32), unet=(64, 64, 64), text=(32, 32), text_layers=2, head=32, latents=16
)
"""The same layouts, as small as they can be, to rehearse with."""


def save_sd15(folder: Path) -> None:
    """A diffusers folder of Stable Diffusion 1.5's shape, its weights at random."""
    save_backbone(random_model(SD15), folder)


def random_model(
    shape: Shape,
    *,
    channels: int = 4,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """A model with random weights, the same ones every time on one device.

    Args:
        shape: Its sizes; two text encoders make it an XL.
        channels: What its UNet takes: 4 latents, or 8 for an editor.
        device: Where its weights are drawn, and stay.
        dtype: Of its weights.
    """
    torch.manual_seed(0)
    tokenizer = load_backbone(MODELS / "stable-diffusion").tokenizer
    tokenizer.model_max_length = 77
    is_xl = len(shape.text) == 2
    with torch.device(device):
        vae = AutoencoderKL(
            block_out_channels=shape.vae,
            down_block_types=("DownEncoderBlock2D",) * len(shape.vae),
            up_block_types=("UpDecoderBlock2D",) * len(shape.vae),
            layers_per_block=2,
            scaling_factor=0.13025 if is_xl else 0.18215,
        )
        first, *others = (text_config(tokenizer, shape, width) for width in shape.text)
        backbone = Backbone(
            vae=vae,
            text_encoder=CLIPTextModel(first),
            tokenizer=tokenizer,
            unet=xl_unet(shape, channels) if is_xl else unet(shape, channels),
            scheduler=scheduler(),
            text_encoder_2=CLIPTextModelWithProjection(others[0]) if others else None,
            tokenizer_2=tokenizer if others else None,
            zero_null=is_xl,
        )
    for module in backbone.modules.values():
        module.to(dtype).eval().requires_grad_(False)
    return backbone


def text_config(tokenizer: Any, shape: Shape, width: int) -> CLIPTextConfig:
    """A text encoder of some width that reads the tokenizer's words."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=width // shape.head,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def unet(shape: Shape, channels: int) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's layout: attention at every level but the lowest."""
    attending = len(shape.unet) - 1
    return UNet2DConditionModel(
        sample_size=shape.latents,
        in_channels=channels,
        block_out_channels=shape.unet,
        down_block_types=("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attending,
        cross_attention_dim=shape.text[0],
        attention_head_dim=8,
    )


def xl_unet(shape: Shape, channels: int) -> UNet2DConditionModel:
    """Stable Diffusion XL's layout: attention at the lower levels, told of sizes and summary."""
    heads = [width // 64 for width in shape.unet]
    deep = shape == SDXL
    return UNet2DConditionModel(
        sample_size=shape.latents,
        in_channels=channels,
        block_out_channels=shape.unet,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10] if deep else [1, 1, 1],
        attention_head_dim=heads,
        use_linear_projection=True,
        cross_attention_dim=sum(shape.text),
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=shape.text[1] + 6 * 256,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
