"""Random models of Stable Diffusion's shapes, as small as they can be; seeded."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from inference.backbone import Backbone

BuildBackbone = Callable[..., Backbone]


def build_backbone(
    prediction_type: str = "epsilon",
    in_channels: int = 4,
    dtype: torch.dtype = torch.float32,
    *,
    xl: bool = False,
) -> Backbone:
    """The shape of the shapes models in small: images 32x32, latents 4x8x8, two UNet levels.

    The noise schedule is Stable Diffusion's for ε, that of the shapes models for v. With `xl`, the
    conditions of SDXL: two text encoders, the second's summary, sizes.
    """
    torch.manual_seed(0)
    vae, tokenizer = _vae(), _tokenizer()
    text = CLIPTextConfig(
        **_special_tokens(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
    )
    text_encoder = CLIPTextModel(text)
    unet = _unet(in_channels, xl=xl)
    backbone = Backbone(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(prediction_type),
        text_encoder_2=CLIPTextModelWithProjection(text) if xl else None,
        tokenizer_2=tokenizer if xl else None,
        zero_null=xl,
    )
    for module in backbone.modules.values():
        module.to(dtype).eval().requires_grad_(False)
    return backbone


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.6,
    )


def _unet(in_channels: int, *, xl: bool) -> UNet2DConditionModel:
    sizes_and_summary = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    }
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=64 if xl else 32,
        norm_num_groups=8,
        **(sizes_and_summary if xl else {}),
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    predicts_v = prediction_type == "v_prediction"
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.025 if predicts_v else 0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,  # without it stock pipelines rewrite the configuration
        prediction_type=prediction_type,
        timestep_spacing="trailing" if predicts_v else "leading",
        set_alpha_to_one=predicts_v,
    )


def build_family(family: str, *, channels: int = 8) -> Backbone:
    """As small as the families' conventions allow: 32 groups, 8 heads or heads of 64 channels.

    Images 16x16, latents 4x8x8; a 2 predicts v.
    """
    torch.manual_seed(0)
    tokenizer, xl = _tokenizer(), family == "xl"
    unet = _family_unet(family, channels)
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        sample_size=16,
        scaling_factor=0.13025 if xl else 0.18215,
    )
    text = _special_tokens(tokenizer) | {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
    }
    gelu = CLIPTextConfig(**text, hidden_act="gelu", projection_dim=48)
    quick = CLIPTextConfig(**text, hidden_act="quick_gelu")
    return Backbone(
        vae=vae,
        text_encoder=CLIPTextModel(gelu if family == "2" else quick),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
            prediction_type="v_prediction" if family == "2" else "epsilon",
            set_alpha_to_one=False,
        ),
        text_encoder_2=CLIPTextModelWithProjection(gelu) if xl else None,
        tokenizer_2=tokenizer if xl else None,
        zero_null=xl,
    )


def _family_unet(family: str, channels: int) -> UNet2DConditionModel:
    xl, linear = family == "xl", family != "1"
    with_sizes = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 48 + 6 * 256,
        "transformer_layers_per_block": [1, 2],
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    without = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        block_out_channels=(64, 128),
        layers_per_block=2,
        attention_head_dim=[1, 2] if linear else 8,
        use_linear_projection=linear,
        cross_attention_dim=128 if xl else 64,
        **(with_sizes if xl else without),
    )


def _tokenizer() -> CLIPTokenizer:
    """Byte-level, with a few whole words; padded to 32 tokens."""
    symbols = list(bytes_to_unicode().values())
    vocabulary = symbols + [symbol + "</w>" for symbol in symbols]
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>")]
    vocabulary += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=32,
    )


def _special_tokens(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """What a text encoder must know of its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
