"""The model card of an exported editor: what it was made of, how, and how it is used."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

from inference.backbone import Backbone
from inference.saving import scales_condition

_TRAINER: Final = ("precision", "accumulate_grad_batches", "devices", "num_nodes")


def model_card(backbone: Backbone, recipe: Mapping[str, Any], *, steps: int) -> str:
    """A README.md with front matter as model hubs read it.

    The licence is left to the user: it depends on that of the base and of the data.

    Args:
        backbone: The editor.
        recipe: Options of `fit`; of paths only the last part is told.
        steps: Optimiser steps done.
    """
    base, data = Path(recipe["model"]["base"]).name, Path(recipe["data"]["shards"]).name
    adapters = recipe["model"].get("lora") is not None
    tags = ["emend", "instruct-pix2pix", "image-editing", *(["lora"] if adapters else [])]
    front = {"library_name": "diffusers", "pipeline_tag": "image-to-image", "tags": tags}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "# license: fill in before you publish; the licence of the base model binds you",
            f"# base_model: fill in the full name of {base}",
            f"# datasets: fill in the full name of {data}",
            "---",
            "",
            "# An image editor that follows instructions",
            "",
            "Trained with Emend in the way of InstructPix2Pix (Brooks et al. 2023): the latents of",
            "the input image are extra channels of the UNet's first convolution.",
            "",
            f"- Base: {base}",
            f"- Data: {data}",
            f"- Steps: {steps:,} of {_samples_a_step(recipe):,} samples each",
            f"- Trained: {_trained(adapters)}",
            f"- Predicts: {backbone.scheduler.config.prediction_type}",
            f"- Scales that suit it: {_scales(backbone)}",
            "",
            "## How to use it",
            "",
            *_usage(backbone),
            *(_adapter_usage(backbone) if adapters else []),
            "## Recipe",
            "",
            "```yaml",
            yaml.safe_dump(_shown(recipe), sort_keys=False).rstrip(),
            "```",
            "",
        ]
    )


def _samples_a_step(recipe: Mapping[str, Any]) -> int:
    batch: int = recipe["data"]["batch_size"]
    accumulated: int = recipe["trainer"]["accumulate_grad_batches"]
    return batch * accumulated


def _scales(backbone: Backbone) -> str:
    known = backbone.settings
    scales = f"text {known.text_scale:g}, image {known.image_scale:g}"
    return f"{scales}, {known.steps} steps of {known.sampler}"


def _trained(adapters: bool) -> str:
    if adapters:
        return "low-rank adapters and the whole first convolution; this folder has them merged"
    return "all weights of the UNet; these are their moving average"


def _usage(backbone: Backbone) -> list[str]:
    settings, kind = backbone.settings, _kind(backbone)
    lines = [
        "```python",
        f"from diffusers import {kind}",
        "from diffusers.utils import load_image",
        "",
        f'pipeline = {kind}.from_pretrained("model")',
        *_call(backbone),
        "```",
        "",
        "Or `python -m inference edit --model model --images photo.png --instruction TEXT`, with",
        "the scales, sampler and steps of `emend.json`.",
        "",
    ]
    if settings.image_latent_scale != 1 and not scales_condition(backbone):
        lines += [
            "**Not with stock pipelines**: its image condition is scaled, by "
            + f"{settings.image_latent_scale:g}, which they do not know.",
            "",
        ]
    return lines


def _adapter_usage(backbone: Backbone) -> list[str]:
    kind = _kind(backbone)
    return [
        "As a LoRA on the base (folder `lora` of the run), whose first convolution goes in by one",
        "line:",
        "",
        "```python",
        f"from diffusers import {kind}",
        "from inference.input_layer import load_input_layer",
        "",
        f'pipeline = {kind}.from_pretrained("base")',
        'load_input_layer(pipeline.unet, "lora/conv_in.safetensors")',
        'pipeline.load_lora_weights("lora")',
        "```",
        "",
    ]


def _kind(backbone: Backbone) -> str:
    xl = "" if backbone.text_encoder_2 is None else "XL"
    return f"StableDiffusion{xl}InstructPix2PixPipeline"


def _call(backbone: Backbone) -> list[str]:
    known = backbone.settings
    options = {
        "guidance_scale": known.text_scale,
        "image_guidance_scale": known.image_scale,
        "num_inference_steps": known.steps,
    }
    if backbone.text_encoder_2 is not None:  # XL's takes the model's size unless told
        options = {"height": "image.height", "width": "image.width", **options}
    return [
        'image = load_image("photo.png")',
        "edited = pipeline(",
        '    "make it winter",',
        "    image=image,",
        *(f"    {name}={value}," for name, value in options.items()),
        ").images[0]",
        'edited.save("edited.png")',
    ]


def _shown(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the weights, without the places of one machine."""
    shown = deepcopy({name: recipe[name] for name in ("seed_everything", "model", "data")})
    shown["trainer"] = {name: recipe["trainer"][name] for name in ("max_steps", *_TRAINER)}
    return {name: _named(value) for name, value in shown.items()}


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _named(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_named(inner) for inner in value]
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value):
        return Path(value).name
    return value
