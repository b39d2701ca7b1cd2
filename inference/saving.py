"""Write a backbone as the diffusers folder that stock pipelines and `load_backbone` read."""

from pathlib import Path
from typing import Any, Final

from diffusers import (
    DiffusionPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
)

from inference.backbone import Backbone
from inference.files import replaced_folder
from inference.settings import save_settings

CARD: Final = "README.md"
"""Model hubs' name for the model card in a folder."""


def is_editor(backbone: Backbone) -> bool:
    """Whether its UNet takes an image condition beside the latents."""
    channels: int = backbone.vae.config.latent_channels
    return bool(backbone.unet.config.in_channels == 2 * channels)


def scales_condition(backbone: Backbone) -> bool:
    """Whether its image condition is scaled as its latents are (CosXL-edit), not left unscaled."""
    factor: float = backbone.vae.config.scaling_factor
    return backbone.settings.image_latent_scale == factor != 1


def stock_pipeline(backbone: Backbone) -> DiffusionPipeline:
    """The diffusers pipeline of a backbone: text-to-image, or InstructPix2Pix for an editor."""
    parts: dict[str, Any] = {
        "vae": backbone.vae,
        "text_encoder": backbone.text_encoder,
        "tokenizer": backbone.tokenizer,
        "unet": backbone.unet,
        "scheduler": backbone.scheduler,
    }
    if backbone.text_encoder_2 is None:
        kind = StableDiffusionInstructPix2PixPipeline
        return (kind if is_editor(backbone) else StableDiffusionPipeline)(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    parts |= {
        "text_encoder_2": backbone.text_encoder_2,
        "tokenizer_2": backbone.tokenizer_2,
        "force_zeros_for_empty_prompt": backbone.zero_null,
        "add_watermarker": False,
    }
    if not is_editor(backbone):
        return StableDiffusionXLPipeline(**parts)
    scaled = scales_condition(backbone)
    pipeline = StableDiffusionXLInstructPix2PixPipeline(**parts, is_cosxl_edit=scaled)
    pipeline.register_to_config(is_cosxl_edit=scaled)  # which it takes, but does not save
    return pipeline


def save_backbone(backbone: Backbone, folder: Path, *, card: str | None = None) -> None:
    """Write a stock diffusers folder, safetensors only, with `emend.json`.

    Args:
        backbone: What to write.
        folder: Where; one that is there is replaced. It appears whole or not at all.
        card: Text of its model card; None writes none.
    """
    with replaced_folder(folder) as partial:
        stock_pipeline(backbone).save_pretrained(partial, safe_serialization=True)
        save_settings(partial, backbone.settings)
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")
