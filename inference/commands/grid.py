"""`python -m inference grid`: how an edit moves with a window of attention control."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from torch import Tensor

from inference.commands.common import Dtype, load_model, output_paths, require_fitting
from inference.editors.editor import EditRequest
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.grids import save_grid
from inference.images import load_image
from inference.inversion.inverted import Inversion, InversionRequest, Inverted
from inference.number_types import Fraction, Seed, checks_numbers

_SEEDS: Final = (0, 1, 2, 3)


class _Once:
    """An inversion of one picture, made when it is first asked for: no window changes it."""

    def __init__(self, inversion: Inversion) -> None:
        self.inversion = inversion
        self.found: Inverted | None = None

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`."""
        self.found = self.found or self.inversion.invert(request)
        return self.found


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

    The first column is the source. The other options are Prompt-to-Prompt's.

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
    [path] = output_paths([Path(image or "drawn")], Path(output))
    if not fractions:
        raise ValueError("fractions is empty; expected one value at least")
    if image is not None and seeds:
        raise ValueError(f"seeds is {seeds}, but an inverted image draws no noise; expected none")
    if knobs[vary] != getattr(PromptToPrompt, vary):
        raise ValueError(
            f"{vary} is {knobs[vary]}, but it is what varies; expected fractions alone"
        )
    pixels = None if image is None else load_image(image)
    requests = [
        EditRequest(image=pixels, source=source, target=target, seed=seed)
        for seed in (seeds or _SEEDS if image is None else [0])
    ]
    backbone = load_model(model, device, dtype)
    if image is not None and pixels is not None:
        require_fitting(backbone, model, {image: pixels}, force=force)
    method = PromptToPrompt(backbone=backbone, progress=True, **knobs)
    if method.inversion is not None:
        method = replace(method, inversion=_Once(method.inversion))
    rows: list[list[Tensor]] = [[] for _ in requests]
    for fraction in fractions:
        # The source is the same whatever the window.
        pairs = replace(method, **{vary: (0.0, fraction)}).edit_pairs(requests)  # type: ignore[arg-type]
        for row, (before, after) in zip(rows, pairs, strict=True):
            row += [after] if row else [before, after]
    titles = ["source", *(f"{vary} {fraction:g}" for fraction in fractions)]
    labels = [f"seed {request.seed}" if image is None else "" for request in requests]
    save_grid(path, rows, titles, labels)
    print(path)
