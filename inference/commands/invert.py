"""`python -m inference invert`: find out how a model draws given pictures, and keep it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from inference.commands.common import Device, Dtype, load_model, one_each, output_paths
from inference.editors.sizes import Sizes, resize
from inference.images import load_image, save_image
from inference.inversion.ddim import Ddim, Direct, NegativePrompt, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.inversion.saved import Saved, save_inversion
from inference.shapes import MODELS

INVERSIONS: Final[Mapping[str, type[Inversion]]] = MappingProxyType(
    {
        "ddim": Ddim,
        "null_text": NullText,
        "negative_prompt": NegativePrompt,
        "proximal": Proximal,
        "direct": Direct,
        "edit_friendly": EditFriendly,
        "saved": Saved,
    }
)


def invert(
    knobs: Mapping[str, Any],
    images: list[str],
    source: list[str],
    inversion: str = "null_text",
    model: str = str(MODELS / "stable-diffusion"),
    output: str = "inverted",
    steps: int = 50,
    guidance_scale: float = 7.5,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Invert images, once for many edits, and show how well they are drawn again.

    Writes <name>.safetensors for `edit --inversion saved`, and <name>.drawn.png, the image as the
    model draws it from there. `--inversion NAME --help` shows the options of that inversion.

    Args:
        knobs: Those of the inversion.
        images: PNG, JPEG or WebP files, one or more.
        source: What they show: one text for all, or one each. `caption` writes such texts.
        inversion: ddim, null_text, negative_prompt, proximal, direct or edit_friendly.
        model: A diffusers folder of a text-to-image model.
        output: For one image, a .safetensors file; else a folder.
        steps: Number of denoising steps, as the edits are to have.
        guidance_scale: Of classifier-free guidance, as the edits are to have.
        device: Where to run; auto takes the GPU if there is one.
        dtype: Of the model's weights.
    """
    paths = [Path(image) for image in images]
    outputs = output_paths(paths, Path(output), ".safetensors")
    prompts = one_each("source", source, len(paths))
    backbone, method = load_model(model, device, dtype), INVERSIONS[inversion](**knobs)
    sizes = Sizes.of(backbone, None)
    for path, prompt, place in zip(paths, prompts, outputs, strict=True):
        image = load_image(path)
        resized = resize(image, sizes.of_image(image))[None]
        inverted = method.invert(
            InversionRequest(
                backbone=backbone,
                images=resized,
                prompts=(prompt,),
                steps=steps,
                guidance_scale=guidance_scale,
            )
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        save_inversion(place, inverted, backbone, resized)
        with torch.no_grad():
            again = backbone.decode(reconstruct(backbone, inverted))[0].cpu().float()
        save_image(place.with_suffix(".drawn.png"), resize(again, (image.shape[1], image.shape[2])))
        error = (again - resized[0]).square().mean().clamp_min(1e-10)
        print(f"{place}: drawn again at {10 * torch.log10(4 / error):.1f} dB")
