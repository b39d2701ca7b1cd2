"""The model card of an exported editor: what it was made of, how, and how it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from inference.backbone import Backbone
from inference.model_names import shown
from inference.saving import scales_condition

_TRAINER: Final = ("max_steps", "precision", "accumulate_grad_batches", "devices", "num_nodes")

_CARD: Final = """\
---
library_name: diffusers
pipeline_tag: image-to-image
tags: [{tags}]
# license: fill in before you publish; the licence of the base model binds you
# base_model: fill in the full name of {base}
# datasets: fill in the full name of {data}
---

# An image editor that follows instructions

Trained with Emend in the way of InstructPix2Pix (Brooks et al. 2023): the latents of the input
image are extra channels of the UNet's first convolution.

- Base: {base}
- Data: {data}
- Steps: {steps:,} of {samples:,} samples each
- Trained: {trained}
- Predicts: {predicts}
- What suits it: text scale {text_scale:g}, image scale {image_scale:g}, {sampling_steps} steps of
  {sampler}

## How to use it

```python
from diffusers import {pipeline}
from diffusers.utils import load_image

pipeline = {pipeline}.from_pretrained("model")
image = load_image("photo.png")
edited = pipeline(
    "make it winter",
    image=image,{size}
    guidance_scale={text_scale:g},
    image_guidance_scale={image_scale:g},
    num_inference_steps={sampling_steps},
).images[0]
edited.save("edited.png")
```

Or `python -m inference edit --model model --images photo.png --instruction "make it winter"`.
{more}
## Recipe

```yaml
{recipe}```
"""

_ADAPTERS: Final = """
As a LoRA on its base, whose first convolution goes in by one line:

```python
from diffusers import {pipeline}
from inference.input_layer import load_input_layer

pipeline = {pipeline}.from_pretrained("base")
load_input_layer(pipeline.unet, "lora/conv_in.safetensors")
pipeline.load_lora_weights("lora")
```
"""

_SCALED: Final = """
**Not for stock pipelines**: the latents of its image condition are multiplied by {factor:g}.
"""


def model_card(backbone: Backbone, recipe: Mapping[str, Any], *, steps: int) -> str:
    """A README.md with front matter as model hubs read it.

    The licence is left to the user: it depends on that of the base and of the data.

    Args:
        backbone: The editor.
        recipe: Options of `fit`; of paths only the last part is told.
        steps: Optimiser steps done.
    """
    settings, xl = backbone.settings, backbone.text_encoder_2 is not None
    adapters = recipe["model"]["lora"] is not None
    pipeline = f"StableDiffusion{'XL' if xl else ''}InstructPix2PixPipeline"
    more = _ADAPTERS.format(pipeline=pipeline) if adapters else ""
    if settings.image_latent_scale != 1 and not scales_condition(backbone):
        more += _SCALED.format(factor=settings.image_latent_scale)
    return _CARD.format(
        tags=", ".join(["emend", "instruct-pix2pix", *(["lora"] if adapters else [])]),
        base=shown(recipe["model"]["base"]),
        data=_sets(recipe["data"]),
        steps=steps,
        samples=recipe["data"]["batch_size"] * recipe["trainer"]["accumulate_grad_batches"],
        trained="low-rank adapters and the first convolution" if adapters else "the whole UNet",
        predicts=backbone.scheduler.config.prediction_type,
        text_scale=settings.text_scale,
        image_scale=settings.image_scale,
        sampling_steps=settings.steps,
        sampler=settings.sampler,
        pipeline=pipeline,
        # unless told, XL's takes the size that the model was made for
        size="\n    height=image.height,\n    width=image.width," if xl else "",
        more=more,
        recipe=yaml.safe_dump(_shown(recipe), sort_keys=False),
    )


def _sets(data: Mapping[str, Any]) -> str:
    """The names of the data sets."""
    paths = [data["shards"]] if data["shards"] else [one["path"] for one in data["sets"]]
    return ", ".join(Path(path).name for path in paths)


def _shown(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the weights, without the places of one machine."""
    told = {name: _named(recipe[name]) for name in ("seed_everything", "model", "data")}
    told["model"]["base"] = shown(recipe["model"]["base"])
    return told | {"trainer": {name: recipe["trainer"][name] for name in _TRAINER}}


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _named(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_named(inner) for inner in value]
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value):
        return Path(value).name
    return value
