"""What a Stable Diffusion is, told from the shapes of the tensors in its original single file.

Such a file says nothing of its architecture: programs look it up by name, or fetch a configuration
from a model hub. The shapes tell nearly all of it. What they do not tell, the families have by
convention: 1.x has 8 attention heads, 2.x and XL heads of 64 channels; norms have 32 groups.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from torch import Tensor

from inference.original_names import CLIP, OPEN_CLIP, UNET, VAE, XL_OPEN_CLIP

Tensors = Mapping[str, Tensor]
Family = Literal["1", "2", "xl"]

HEAD_CHANNELS: Final = 64
_SCALING_FACTORS: Final[Mapping[Family, float]] = {"1": 0.18215, "2": 0.18215, "xl": 0.13025}
_NATIVE_SIZES: Final[Mapping[Family, int]] = {"1": 512, "2": 512, "xl": 1024}


def family_of(tensors: Tensors) -> Family:
    """Which Stable Diffusion it is, by its text encoders.

    Raises:
        ValueError: It is none that this framework runs.
    """
    by_prefix: tuple[tuple[str, Family], ...] = (
        (XL_OPEN_CLIP, "xl"),
        (OPEN_CLIP, "2"),
        (CLIP, "1"),
    )
    whole = all(any(name.startswith(part) for name in tensors) for part in (UNET, VAE))
    for prefix, family in by_prefix:
        if whole and any(name.startswith(prefix) for name in tensors):
            return family
    raise ValueError(
        "the file holds no whole Stable Diffusion 1.x, 2.x or XL; expected tensors that start with "
        f"{UNET}, {VAE} and one of {', '.join(prefix for prefix, _ in by_prefix)}"
    )


def native_size(family: Family, prediction_type: str) -> int:
    """Side in pixels that a family's UNet was made for, where nobody says otherwise."""
    return 768 if (family, prediction_type) == ("2", "v_prediction") else _NATIVE_SIZES[family]


def unet_config(tensors: Tensors, sample_size: int) -> dict[str, Any]:
    """Configuration of a UNet2DConditionModel.

    Args:
        tensors: Those of the file.
        sample_size: Side of the latents that the UNet was made for.
    """
    unet = _part(tensors, UNET)
    ends = _numbers(unet, r"input_blocks\.(\d+)\.0\.op\.weight")
    last = max(_numbers(unet, r"input_blocks\.(\d+)\."))
    layers = (ends[0] if ends else last + 1) - 1
    starts = [1, *(end + 1 for end in ends)]
    attends = [f"input_blocks.{i}.1.proj_in.weight" in unet for i in starts]
    depths = [
        len(set(_numbers(unet, rf"input_blocks\.{i}\.1\.transformer_blocks\.(\d+)\."))) or 1
        for i in starts
    ]
    channels = [len(unet[f"input_blocks.{i}.0.out_layers.3.weight"]) for i in starts]
    linear = unet["middle_block.1.proj_in.weight"].ndim == 2
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends]
    up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)]
    return {
        "sample_size": sample_size,
        "in_channels": unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": len(unet["out.2.weight"]),
        "block_out_channels": channels,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": layers,
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "cross_attention_dim": unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[
            1
        ],
        # diffusers' name for the number of heads, not for their size
        "attention_head_dim": [c // HEAD_CHANNELS for c in channels] if linear else 8,
        "use_linear_projection": linear,
        **_size_condition(unet),
    }


def _size_condition(unet: Tensors) -> dict[str, Any]:
    if "label_emb.0.0.weight" not in unet:
        return {}
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": unet["label_emb.0.0.weight"].shape[1],
    }


def vae_config(tensors: Tensors, family: Family, sample_size: int) -> dict[str, Any]:
    """Configuration of an AutoencoderKL.

    Args:
        tensors: Those of the file.
        family: It decides the scaling factor.
        sample_size: Side in pixels of the images that the model was made for.
    """
    vae = _part(tensors, VAE)
    blocks = 1 + max(_numbers(vae, r"encoder\.down\.(\d+)\."))
    return {
        "sample_size": sample_size,
        "block_out_channels": [
            len(vae[f"encoder.down.{i}.block.0.conv1.weight"]) for i in range(blocks)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "layers_per_block": 1 + max(_numbers(vae, r"encoder\.down\.0\.block\.(\d+)\.")),
        "latent_channels": len(vae["post_quant_conv.weight"]),
        "scaling_factor": _SCALING_FACTORS[family],
    }


def clip_config(tensors: Tensors, prefix: str) -> dict[str, Any]:
    """Configuration of OpenAI's CLIP text encoder.

    Args:
        tensors: Those of the file.
        prefix: `CLIP` or `XL_CLIP`.
    """
    text = _part(tensors, prefix + "text_model.")
    return _text_config(
        text["embeddings.token_embedding.weight"],
        text["embeddings.position_embedding.weight"],
        layers=1 + max(_numbers(text, r"encoder\.layers\.(\d+)\.")),
        inner=len(text["encoder.layers.0.mlp.fc1.weight"]),
    ) | {"hidden_act": "quick_gelu"}


def open_clip_config(tensors: Tensors, prefix: str, layers: int) -> dict[str, Any]:
    """Configuration of an OpenCLIP text encoder.

    Args:
        tensors: Those of the file.
        prefix: `OPEN_CLIP` or `XL_OPEN_CLIP`.
        layers: How many of its layers are taken over.
    """
    text = _part(tensors, prefix)
    projection = text.get("text_projection")
    return _text_config(
        text["token_embedding.weight"],
        text["positional_embedding"],
        layers=layers,
        inner=len(text["transformer.resblocks.0.mlp.c_fc.weight"]),
    ) | {
        "hidden_act": "gelu",
        **({} if projection is None else {"projection_dim": projection.shape[1]}),
    }


def _text_config(tokens: Tensor, places: Tensor, *, layers: int, inner: int) -> dict[str, Any]:
    vocabulary, width = tokens.shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD_CHANNELS),
        "max_position_embeddings": len(places),
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def _part(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _numbers(names: Iterable[str], pattern: str) -> list[int]:
    """What the one group of a pattern says where names begin with it, in order."""
    return sorted({int(found[1]) for found in (re.match(pattern, name) for name in names) if found})
