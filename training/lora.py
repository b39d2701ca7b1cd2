"""Low-rank adapters (Hu et al. 2022) instead of all weights, beside a whole new input layer.

An editor's first convolution takes twice the channels of its base's, and no adapter can widen it.
So the adapters are trained together with that convolution, weight and bias, and both are saved:
the adapters as any LoRA, the convolution as a file of two tensors.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

from diffusers import (
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from inference.backbone import Backbone
from inference.files import replaced_folder
from inference.input_layer import INPUT_LAYER
from inference.saving import CARD
from training.config import Lora


def add_adapters(unet: UNet2DConditionModel, knobs: Lora) -> None:
    """Freeze a UNet but for its first convolution, and add adapters that do nothing yet.

    Raises:
        ValueError: No layer of it bears a name of `targets`.
    """
    alpha = knobs.rank if knobs.alpha is None else knobs.alpha
    ends = tuple(f".{name}" for name in knobs.targets)
    if not any(name.endswith(ends) for name, _ in unet.named_modules()):
        raise ValueError(
            f"lora.targets are {list(knobs.targets)}; no layer of the UNet is so named"
        )
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=knobs.rank,
            lora_alpha=alpha,
            init_lora_weights="gaussian",
            target_modules=list(knobs.targets),
        )
    )
    unet.conv_in.requires_grad_(True)


def merged(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A UNet with its adapters worked into the weights: a copy, or itself where it has none."""
    if not hasattr(unet, "peft_config"):
        return unet
    whole = deepcopy(unet)
    whole.fuse_lora()
    whole.unload_lora()
    return whole


def save_adapters(backbone: Backbone, folder: Path, *, card: str) -> None:
    """Write adapters and input layer, as `load_lora_weights` and `load_input_layer` read them.

    Args:
        backbone: Its UNet has adapters.
        folder: Where; one that is there is replaced. It appears whole or not at all.
        card: Text of its model card.
    """
    unet: Any = backbone.unet
    kind: Any = StableDiffusionInstructPix2PixPipeline
    if backbone.text_encoder_2 is not None:
        kind = StableDiffusionXLInstructPix2PixPipeline
    with replaced_folder(folder) as partial:
        kind.save_lora_weights(
            partial,
            unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)),
            # without it alpha is taken to be the rank
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
        )
        save_file(unet.conv_in.state_dict(), partial / INPUT_LAYER)
        (partial / CARD).write_text(card, encoding="utf-8")
