"""Write Stable Diffusion as one `.safetensors` file, for programs other than diffusers.

Tensors get their original names. Diffusers' configurations go into the file's metadata, so that a
model of unusual shape can come back.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.backbone import Backbone
from inference.files import written_atomically
from inference.saving import is_editor
from inference.single_file import original_names
from inference.single_file.architecture import plain_config
from inference.single_file.original_names import CLIP, OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP

METADATA: Final = "emend"
"""Metadata key under which a file of ours keeps diffusers' configurations, as JSON."""

_PARTS: Final = ("vae", "text_encoder", "text_encoder_2", "unet", "scheduler")


def original_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """All weights of a backbone under their original names."""
    state = {name: module.state_dict() for name, module in backbone.modules.items()}
    found = original_names.unet_tensors(state["unet"], backbone.unet.config)
    found |= original_names.vae_tensors(state["vae"])
    text = state["text_encoder"]
    if backbone.text_encoder_2 is not None:
        found |= original_names.clip_tensors(text, XL_CLIP)
        found |= original_names.open_clip_tensors(state["text_encoder_2"], XL_OPEN_CLIP)
    elif backbone.unet.config.use_linear_projection:
        found |= original_names.open_clip_tensors(text, OPEN_CLIP)
    else:
        found |= original_names.clip_tensors(text, CLIP)
    return found


def write_original(
    backbone: Backbone, path: Path, others: Mapping[str, Tensor] | None = None
) -> None:
    """Write a backbone as one safetensors file, atomically.

    Args:
        backbone: What to write.
        path: Ends in `.safetensors`.
        others: Tensors to write as well, which no part of a backbone holds.

    Raises:
        ValueError: The path ends otherwise.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} has the suffix {path.suffix!r}; expected .safetensors")
    scheduler = backbone.scheduler.config
    tensors = dict(others or {}) | original_tensors(backbone)
    if backbone.text_encoder_2 is not None and scheduler.prediction_type == "v_prediction":
        tensors["v_pred"] = torch.empty(0)  # as ComfyUI and others are told
        if scheduler.get("rescale_betas_zero_snr"):
            tensors["ztsnr"] = torch.empty(0)
    parts = {name: getattr(backbone, name) for name in _PARTS}
    configs: dict[str, Any] = {
        name: plain_config(part) for name, part in parts.items() if part is not None
    }
    configs |= {"settings": asdict(backbone.settings), "zero_null": backbone.zero_null}
    metadata = {"format": "pt", METADATA: json.dumps(configs), **_model_spec(backbone)}
    with written_atomically(path) as temporary:
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata)


def _model_spec(backbone: Backbone) -> dict[str, str]:
    """Stability's metadata standard, by which some programs name a model and its prediction."""
    linear, xl = backbone.unet.config.use_linear_projection, backbone.text_encoder_2 is not None
    family = "stable-diffusion-xl-v1-base" if xl else f"stable-diffusion-v{2 if linear else 1}"
    epsilon = backbone.scheduler.config.prediction_type == "epsilon"
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family + ("/instruct-pix2pix" if is_editor(backbone) else ""),
        "modelspec.prediction_type": "epsilon" if epsilon else "v",
    }
