"""`python -m inference invert`: find out how a model draws given pictures, and keep it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm

from inference.commands.common import (
    Dtype,
    load_model,
    one_each,
    output_paths,
    require_fitting,
)
from inference.editors.sizes import Sizes, in_batches
from inference.images import load_image, save_image
from inference.inversion.ddim import Ddim, Direct, NegativePrompt, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.inversion.saved import Saved, save_inversion
from inference.number_types import Finite, PositiveSmallCount, checks_numbers

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


@checks_numbers
def invert(
    knobs: Mapping[str, Any],
    images: list[str],
    source: list[str],
    inversion: str = "null_text",
    model: str = "shapes/stable-diffusion",
    output: str = "inverted",
    steps: PositiveSmallCount = 50,
    guidance_scale: Finite = 7.5,
    batch_size: PositiveSmallCount = 8,
    device: str = "auto",
    dtype: Dtype = "float32",
    force: bool = False,
) -> None:
    """Invert images, once for many edits, and show how well they are drawn again.

    Writes <name>.safetensors for `edit --inversion saved`, which takes such a file or a folder of
    them, and <name>.drawn.png, the image as the model draws it from there. `--inversion NAME
    --help` shows the options of that inversion.

    Args:
        knobs: Those of the inversion.
        images: PNG, JPEG or WebP files, one or more.
        source: What they show: one text for all, or one each. `caption` writes such texts.
        inversion: ddim, null_text, negative_prompt, proximal, direct or edit_friendly.
        model: A text-to-image model: a diffusers folder, one that ships (`emend recipes` lists
            them), or OWNER/NAME of the hub.
        output: For one image, a .safetensors file; else a folder.
        steps: Number of denoising steps, as the edits are to have.
        guidance_scale: Of classifier-free guidance, as the edits are to have.
        batch_size: Most images inverted at once.
        device: Where to run: auto, cpu, cuda, cuda:1 and so on, or mps; auto takes the first CUDA
            GPU if there is one.
        dtype: Of the model's weights.
        force: Go on where a picture is far larger than those that the model was made for.
    """
    paths = [Path(image) for image in images]
    outputs = output_paths(paths, Path(output), ".safetensors")
    prompts = one_each("source", source, len(paths))
    backbone, method = load_model(model, device, dtype), INVERSIONS[inversion](**knobs)
    pictures, decibels = [load_image(path) for path in paths], dict[int, float]()
    require_fitting(backbone, model, dict(zip(images, pictures, strict=True)), force=force)
    with tqdm(total=len(paths), desc="inverting", unit="image") as bar:

        def drawn_again(rows: Sequence[int], resized: Tensor) -> Tensor:
            inverted = method.invert(
                InversionRequest(
                    backbone=backbone,
                    images=resized,
                    prompts=tuple(prompts[row] for row in rows),
                    steps=steps,
                    guidance_scale=guidance_scale,
                    progress=True,
                )
            )
            with torch.no_grad():
                again = backbone.decode(reconstruct(backbone, inverted)).cpu().float()
            for number, row in enumerate(rows):
                save_inversion(outputs[row], inverted.picture(number), backbone, resized[number])
                decibels[row] = _psnr(again[number], resized[number])
            bar.update(len(rows))
            return again

        drawn = in_batches(pictures, drawn_again, Sizes.of(backbone, None), batch_size)
    for row, (place, picture) in enumerate(zip(outputs, drawn, strict=True)):
        save_image(place.with_suffix(".drawn.png"), picture)
        print(f"{place}: drawn again at {decibels[row]:.1f} dB")


def _psnr(one: Tensor, other: Tensor) -> float:
    """Of two images in [-1, 1], in dB; 100 at most."""
    error = (one - other).square().mean().clamp_min(4e-10)
    return float(10 * torch.log10(4 / error))
