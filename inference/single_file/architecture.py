"""What a Stable Diffusion is, told from the shapes of the tensors in its original single file.

Such a file says nothing of its architecture: programs look it up by name, or fetch a configuration
from a model hub. The shapes tell nearly all of it. What they do not tell, the families have by
convention: 1.x has 8 attention heads, 2.x and XL heads of 64 channels; norms have 32 groups.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler
from diffusers.loaders.single_file_utils import SD_2_TEXT_ENCODER_KEYS_TO_IGNORE
from torch import Tensor

from inference.choices import PredictionType
from inference.single_file.original_names import CLIP, OPEN_CLIP, UNET, VAE, XL_CLIP, XL_OPEN_CLIP

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


def configs_of(
    tensors: Tensors,
    family: Family,
    prediction_type: PredictionType | None = None,
    native_size: int | None = None,
) -> dict[str, Any]:
    """Diffusers' configurations of all parts of a model, by the names of their folders.

    Args:
        tensors: Those of the file.
        family: Of the model.
        prediction_type: What the UNet predicts; None takes what the file or its family says.
        native_size: Side in pixels that the UNet was made for; None takes the family's.

    Raises:
        ValueError: Neither file nor family say what the UNet predicts.
    """
    predicts = prediction_type or _told_prediction(tensors, family)
    size = native_size or _NATIVE_SIZES[family]
    if native_size is None and (family, predicts) == ("2", "v_prediction"):
        size = 768
    vae = vae_config(tensors, family, size)
    unet = unet_config(tensors, size >> (len(vae["block_out_channels"]) - 1))
    editor = unet["in_channels"] == 2 * vae["latent_channels"]
    found = {"unet": unet, "vae": vae, "scheduler": _scheduler(tensors, predicts, editor=editor)}
    if family == "1":
        return found | {"text_encoder": clip_config(tensors, CLIP)}
    if family == "2":
        return found | {"text_encoder": open_clip_config(tensors, OPEN_CLIP)}
    return found | {
        "text_encoder": clip_config(tensors, XL_CLIP),
        "text_encoder_2": open_clip_config(tensors, XL_OPEN_CLIP),
    }


def _told_prediction(tensors: Tensors, family: Family) -> PredictionType:
    if "v_pred" in tensors:  # an empty tensor, by which XL's v-predicting models say so
        return "v_prediction"
    if family == "2":
        raise ValueError(
            "a Stable Diffusion 2.x may predict either and its file does not tell: say "
            "prediction_type epsilon (2.x base) or v_prediction (2.x for 768 pixels)"
        )
    return "epsilon"


def _scheduler(tensors: Tensors, predicts: PredictionType, *, editor: bool) -> dict[str, Any]:
    """Noise as all Stable Diffusions have it; InstructPix2Pix samples with Euler ancestral."""
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    known: dict[str, Any] = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        "prediction_type": predicts,
        **(zero if "ztsnr" in tensors else {}),
    }
    if editor:
        return plain_config(EulerAncestralDiscreteScheduler(**known))
    return plain_config(DDIMScheduler(**known, clip_sample=False, set_alpha_to_one=False))


def plain_config(part: Any) -> dict[str, Any]:
    """The configuration of a model or a scheduler as JSON knows it, without private entries."""
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    own = {name: value for name, value in config.items() if not name.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(own, default=str))
    return {"_class_name": type(part).__name__, **plain}


def unet_config(tensors: Tensors, sample_size: int) -> dict[str, Any]:
    """Configuration of a UNet2DConditionModel.

    Args:
        tensors: Those of the file.
        sample_size: Side of the latents that the UNet was made for.
    """
    unet = _Part(tensors, UNET)
    ends = _numbers(unet, r"input_blocks\.(\d+)\.0\.op\.weight")
    last = _last(unet, r"input_blocks\.(\d+)\.")
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
    vae = _Part(tensors, VAE)
    blocks = 1 + _last(vae, r"encoder\.down\.(\d+)\.")
    return {
        "sample_size": sample_size,
        "block_out_channels": [
            len(vae[f"encoder.down.{i}.block.0.conv1.weight"]) for i in range(blocks)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "layers_per_block": 1 + _last(vae, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": len(vae["post_quant_conv.weight"]),
        "scaling_factor": _SCALING_FACTORS[family],
    }


def clip_config(tensors: Tensors, prefix: str) -> dict[str, Any]:
    """Configuration of OpenAI's CLIP text encoder.

    Args:
        tensors: Those of the file.
        prefix: `CLIP` or `XL_CLIP`.
    """
    text = _Part(tensors, prefix + "text_model.")
    return _text_config(
        text["embeddings.token_embedding.weight"],
        text["embeddings.position_embedding.weight"],
        layers=1 + _last(text, r"encoder\.layers\.(\d+)\."),
        inner=len(text["encoder.layers.0.mlp.fc1.weight"]),
    ) | {"hidden_act": "quick_gelu"}


def open_clip_config(tensors: Tensors, prefix: str) -> dict[str, Any]:
    """Configuration of an OpenCLIP text encoder.

    Of a 2.x, as diffusers has it, without the 24th layer, which nothing looks at.

    Args:
        tensors: Those of the file.
        prefix: `OPEN_CLIP` or `XL_OPEN_CLIP`.
    """
    text = _Part(tensors, prefix)
    left_out = {name.removeprefix(prefix) for name in SD_2_TEXT_ENCODER_KEYS_TO_IGNORE}
    taken = text if prefix == XL_OPEN_CLIP else text.keys() - left_out
    projection = text.get("text_projection")
    return _text_config(
        text["token_embedding.weight"],
        text["positional_embedding"],
        layers=1 + _last(taken, r"transformer\.resblocks\.(\d+)\."),
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


class _Part(dict[str, Tensor]):
    """Tensors of a file under one prefix; one that is missing is named."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self.prefix = prefix
        super().__init__(
            (name.removeprefix(prefix), tensor)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        )

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(f"the file lacks the tensor {self.prefix}{name}")


def _last(names: Iterable[str], pattern: str) -> int:
    """The largest of `_numbers`."""
    found = _numbers(names, pattern)
    if not found:
        raise ValueError(f"the file has no tensors with names such as {pattern}")
    return found[-1]


def _numbers(names: Iterable[str], pattern: str) -> list[int]:
    """What the one group of a pattern says where names begin with it, in order."""
    return sorted({int(found[1]) for found in (re.match(pattern, name) for name in names) if found})
