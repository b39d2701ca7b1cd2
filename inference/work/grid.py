"""`python -m inference grid`: how an edit moves with attention control or with guidance."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from torch import Tensor

from inference.choices import Dtype
from inference.editors.config import InstructConfig, PromptToPromptConfig
from inference.editors.editor import EditRequest
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.grids import save_grid
from inference.images import load_image
from inference.inversion.inverted import Inversion, InversionRequest, Inverted
from inference.progress import ProgressBar
from inference.work.common import load_model, output_paths, require_fitting

_SEEDS: Final = (0, 1, 2, 3)


class _Once(Inversion):
    """An inversion of one picture, made when it is first asked for: no window changes it."""

    def __init__(self, inversion: Inversion) -> None:
        self.inversion = inversion
        self.found: Inverted | None = None

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`."""
        self.found = self.found or self.inversion.invert(request)
        return self.found


def draw_grid(
    config: PromptToPromptConfig,
    *,
    source: str,
    target: str,
    vary: Literal["cross", "self_attention"],
    fractions: Sequence[float],
    seeds: Sequence[int],
    image: str | None,
    model: str,
    output: str,
    device: str,
    dtype: Dtype,
    force: bool,
) -> None:
    """Draw a grid of what Prompt-to-Prompt with these options makes; see `commands.grid`."""
    [path] = output_paths([Path(image or "drawn")], Path(output))
    pixels = None if image is None else load_image(image)
    requests = [
        EditRequest(image=pixels, source=source, target=target, seed=seed)
        for seed in (seeds or _SEEDS if image is None else [0])
    ]
    backbone = load_model(model, device, dtype)
    if image is not None and pixels is not None:
        require_fitting(backbone, model, {image: pixels}, force=force)
    method: PromptToPrompt = config.build(backbone=backbone, progress=True)
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


def draw_scales(
    config: InstructConfig,
    *,
    image: str,
    instruction: str,
    text_scales: Sequence[float],
    image_scales: Sequence[float],
    model: str,
    seed: int,
    output: str,
    device: str,
    dtype: Dtype,
    force: bool,
) -> None:
    """Draw a grid of what dual guidance makes of an edit; see `commands.grid.grid_of_scales`."""
    [path] = output_paths([Path(image)], Path(output))
    pixels = load_image(image)
    request = EditRequest(image=pixels, instruction=instruction, seed=seed)
    backbone = load_model(model, device, dtype)
    require_fitting(backbone, model, {image: pixels}, force=force)
    rows: list[list[Tensor]] = []
    with ProgressBar(
        total=len(text_scales) * len(image_scales), desc="editing", unit="edit"
    ) as bar:
        for image_scale in image_scales:
            row = [pixels]
            for text_scale in text_scales:
                scales = replace(config, text_scale=text_scale, image_scale=image_scale)
                row += scales.build(backbone=backbone).edit([request])
                bar.update()
            rows.append(row)
    titles = ["picture", *(f"text {scale:g}" for scale in text_scales)]
    save_grid(path, rows, titles, [f"image {scale:g}" for scale in image_scales])
    print(path)
