"""`python -m inference grid`: how an edit moves with attention control or with guidance."""

from collections.abc import Mapping
from typing import Any, Literal

from inference.choices import Dtype
from inference.editors.config import InstructConfig, PromptToPromptConfig
from inference.number_types import Finite, Fraction, Seed, checks_numbers


@checks_numbers
def grid(
    knobs: Mapping[str, Any],
    source: str,
    target: str,
    vary: Literal["cross", "self_attention"] = "cross",
    fractions: list[Fraction] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],  # noqa: B006  (only read)
    seeds: list[Seed] = [],  # noqa: B006
    image: str | None = None,
    model: str = "shapes/stable-diffusion",
    output: str = "grid.png",
    device: str = "auto",
    dtype: Dtype = "float32",
    force: bool = False,
) -> None:
    """Draw a grid: a row a seed, a column a fraction of steps in which attention is the source's.

    The first column is the source. The other options are Prompt-to-Prompt's. `grid --editor
    instruct` draws another one: text scales and image scales of an instruction.

    Args:
        knobs: Those of Prompt-to-Prompt.
        source: What the image shows.
        target: What the edited image is to show.
        vary: Which window grows: that of cross-attention or that of self-attention.
        fractions: Where it ends, a column each.
        seeds: A row each, by default 0 to 3; none with an image, whose one row draws no noise.
        image: A file to edit, through an inversion; without it the source is drawn.
        model: A text-to-image model: a diffusers folder, one that ships (`emend recipes` lists
            them), or OWNER/NAME of the hub.
        output: The picture to write, .png, .jpg or .webp.
        device: Where to run: auto, cpu, cuda, cuda:1 and so on, or mps; auto takes the first CUDA
            GPU if there is one.
        dtype: Of the model's weights.
        force: Go on where a picture is far larger than those that the model was made for.
    """
    config = PromptToPromptConfig(**knobs)
    if not fractions:
        raise ValueError("fractions is empty; expected one value at least")
    if image is not None and seeds:
        raise ValueError(f"seeds is {seeds}, but an inverted image draws no noise; expected none")
    if knobs[vary] != getattr(PromptToPromptConfig, vary):
        raise ValueError(
            f"{vary} is {knobs[vary]}, but it is what varies; expected fractions alone"
        )
    from inference.work.grid import draw_grid

    draw_grid(
        config,
        source=source,
        target=target,
        vary=vary,
        fractions=fractions,
        seeds=seeds,
        image=image,
        model=model,
        output=output,
        device=device,
        dtype=dtype,
        force=force,
    )


@checks_numbers
def grid_of_scales(
    knobs: Mapping[str, Any],
    image: str,
    instruction: str,
    editor: Literal["instruct"] = "instruct",
    text_scales: list[Finite] = [3.0, 5.0, 7.5, 10.0],  # noqa: B006  (only read)
    image_scales: list[Finite] = [1.0, 1.2, 1.5, 2.0],  # noqa: B006
    model: str = "shapes/instruct-pix2pix",
    seed: Seed = 0,
    output: str = "grid.png",
    device: str = "auto",
    dtype: Dtype = "float32",
    force: bool = False,
) -> None:
    """Draw a grid of an edit: a row an image scale, a column a text scale of dual guidance.

    The first column is the picture itself. The other options are those of `edit`.

    Args:
        knobs: Those of the editor.
        image: A PNG, JPEG or WebP file.
        instruction: What to do with it.
        editor: instruct; without it the grid is one of Prompt-to-Prompt's windows.
        text_scales: How strongly the instruction is followed, a column each.
        image_scales: How strongly the picture is kept, a row each.
        model: An InstructPix2Pix model: a diffusers folder, one that ships, or OWNER/NAME of the
            hub.
        seed: Of the noise, the same for all.
        output: The picture to write, .png, .jpg or .webp.
        device: Where to run: auto, cpu, cuda, cuda:1 and so on, or mps; auto takes the first CUDA
            GPU if there is one.
        dtype: Of the model's weights; half precision is for GPUs.
        force: Go on where a picture is far larger than those that the model was made for.
    """
    for name, given in (("text_scales", text_scales), ("image_scales", image_scales)):
        if not given:
            raise ValueError(f"{name} is empty; expected one value at least")
    for name in ("text_scale", "image_scale"):
        if knobs[name] is not None:
            raise ValueError(f"{name} is {knobs[name]}, but it is what varies; expected {name}s")
    config = InstructConfig(**knobs)
    from inference.work.grid import draw_scales

    draw_scales(
        config,
        image=image,
        instruction=instruction,
        text_scales=text_scales,
        image_scales=image_scales,
        model=model,
        seed=seed,
        output=output,
        device=device,
        dtype=dtype,
        force=force,
    )
