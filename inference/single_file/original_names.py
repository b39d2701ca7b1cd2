"""The names that tensors have in Stable Diffusion's original single files.

Programs other than diffusers (ComfyUI, the A1111 web UI, the InstructPix2Pix repository) read a
checkpoint as one file of tensors with the names of CompVis' and Stability's code. This is the way
there, from diffusers' names; the way back is diffusers' own (`loaders.single_file_utils`).
"""

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

import torch
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_TO_LDM_MAPPING,
    LDM_UNET_KEY,
    LDM_VAE_KEYS,
)
from torch import Tensor

Tensors = Mapping[str, Tensor]

UNET: Final = str(LDM_UNET_KEY)
VAE: Final = str(LDM_VAE_KEYS[0])
CLIP: Final = "cond_stage_model.transformer."
OPEN_CLIP: Final = "cond_stage_model.model."
XL_CLIP: Final = "conditioner.embedders.0.transformer."
XL_OPEN_CLIP: Final = "conditioner.embedders.1.model."

_Renaming = tuple[tuple[str, str], ...]

_UNET_RESNET: _Renaming = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_VAE_ATTENTION: _Renaming = (
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
)
_OPEN_CLIP_LAYER: _Renaming = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)


def unet_tensors(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A UNet2DConditionModel's tensors under their original names.

    Args:
        tensors: Its state dict.
        config: Its configuration.
    """
    named = DIFFUSERS_TO_LDM_MAPPING["unet"]
    fixed = named["layers"] | named["addition_embed_type"]
    return {UNET + (fixed.get(name) or _unet_name(name, config)): t for name, t in tensors.items()}


def _unet_name(name: str, config: Mapping[str, Any]) -> str:
    """Input and output blocks are numbered through, one a layer; the first takes the latents."""
    a_block = config["layers_per_block"] + 1
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, number, rest = found[1], int(found[2]), found[3]
        place = 2 * number + (kind == "attentions")
        return f"middle_block.{place}.{_renamed(rest, _resnet_only(kind))}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if not found:
        raise ValueError(f"a UNet's tensor {name!r} has no original name")
    side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * a_block}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        place = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return f"output_blocks.{block * a_block + a_block - 1}.{place}.{rest}"
    first = f"input_blocks.{1 + block * a_block + layer}"
    if side == "up":
        first = f"output_blocks.{block * a_block + layer}"
    return f"{first}.{int(kind == 'attentions')}.{_renamed(rest, _resnet_only(kind))}"


def _resnet_only(kind: str) -> _Renaming:
    return _UNET_RESNET if kind == "resnets" else ()


def vae_tensors(tensors: Tensors) -> dict[str, Tensor]:
    """An AutoencoderKL's tensors under their original names, its attention as convolutions."""
    fixed = DIFFUSERS_TO_LDM_MAPPING["vae"]
    blocks = 1 + max(
        int(n[1]) for n in (re.match(r"decoder\.up_blocks\.(\d+)", t) for t in tensors) if n
    )
    found = {}
    for name, tensor in tensors.items():
        if re.search(r"attentions\.0\.to_.*weight", name):
            tensor = tensor[..., None, None]
        found[VAE + (fixed.get(name) or _vae_name(name, blocks))] = tensor
    return found


def _vae_name(name: str, blocks: int) -> str:
    """The decoder's blocks are numbered from the picture inwards."""
    side, rest = name.split(".", 1)
    if found := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", rest):
        rest = f"mid.block_{int(found[1]) + 1}.{found[2]}"
    elif found := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", rest):
        rest = f"mid.attn_1.{_renamed(found[1], _VAE_ATTENTION)}"
    elif found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", rest):
        way, block, kind, layer, inner = found.groups()
        number = int(block) if way == "down" else blocks - 1 - int(block)
        where = f"block.{layer}" if kind == "resnets" else f"{way}sample"
        rest = f"{way}.{number}.{where}.{inner}"
    else:
        raise ValueError(f"a VAE's tensor {name!r} has no original name")
    return f"{side}.{rest.replace('conv_shortcut', 'nin_shortcut')}"


def clip_tensors(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """OpenAI's CLIP text encoder, which the original files keep in Hugging Face's names.

    Args:
        tensors: State dict of a CLIPTextModel.
        prefix: `CLIP` or `XL_CLIP`.
    """
    return {f"{prefix}text_model.{_bare(name)}": tensor for name, tensor in tensors.items()}


def open_clip_tensors(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """An OpenCLIP text encoder, whose queries, keys and values are one tensor.

    Args:
        tensors: State dict of a CLIPTextModel or a CLIPTextModelWithProjection.
        prefix: `OPEN_CLIP` or `XL_OPEN_CLIP`.
    """
    outer = {
        _bare(name): original
        for name, original in DIFFUSERS_TO_LDM_MAPPING["openclip"]["layers"].items()
    }
    bare = {_bare(name): tensor for name, tensor in tensors.items()}
    found = {prefix + outer[name]: bare[name] for name in bare if name in outer}
    if (projection := prefix + "text_projection") in found:
        found[projection] = found[projection].T.contiguous()
    inner = sorted(name for name in bare if name not in outer)
    by_layer = groupby(inner, lambda name: name.removeprefix("encoder.layers.").split(".")[0])
    for layer, names in by_layer:
        start = f"encoder.layers.{layer}."
        there = f"{prefix}transformer.resblocks.{layer}."
        for name in names:
            rest = name.removeprefix(start)
            if not re.match(r"self_attn\.[qkv]_proj", rest):
                found[there + _renamed(rest, _OPEN_CLIP_LAYER)] = bare[name]
        for kind in ("weight", "bias"):
            parts = [bare[f"{start}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{there}attn.in_proj_{kind}"] = torch.cat(parts)
    return found


def _bare(name: str) -> str:
    """A text encoder's name without the prefix that only some versions of transformers use."""
    return name.removeprefix("text_model.")


def _renamed(name: str, renaming: _Renaming) -> str:
    for ours, original in renaming:
        if name.startswith(ours + "."):
            return original + name.removeprefix(ours)
    return name
