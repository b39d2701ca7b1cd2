"""`python -m inference invert`: find out how a model draws given pictures, and keep it."""

from collections.abc import Mapping
from typing import Any

from inference.choices import Dtype
from inference.inversion.config import INVERSIONS
from inference.number_types import Finite, PositiveSmallCount, checks_numbers


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
    config = INVERSIONS[inversion](**knobs)
    from inference.work.invert import invert_files

    invert_files(
        config,
        images=images,
        source=source,
        model=model,
        output=output,
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        force=force,
    )
