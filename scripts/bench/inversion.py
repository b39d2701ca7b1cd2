"""How well is a real picture drawn again? Every inversion and the ablations of Null-text inversion.

    python scripts/bench/inversion.py            # 100 pictures; five hours on one core
    python scripts/bench/inversion.py --count 8 --only "DDIM;Null-text"

Pictures of the shapes world that nothing was trained on, real ones to the model: rendered, not
drawn by it. PSNR is that of the decoded picture; the autoencoder's round trip is the bound, and
what an inversion loses to it is told picture by picture. All with 95 % intervals. A Markdown table
for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from counting import counted
from jsonargparse import auto_cli
from tables import header, row
from torch import Tensor

from inference.backbone import Backbone, load_backbone
from inference.images import from_numpy
from inference.inversion.ddim import Ddim, Direct, NegativePrompt
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.null_text import ABLATIONS, NullText
from inference.shapes import MODELS
from inference.shapes.captions import caption, describe
from inference.shapes.render import render
from inference.shapes.scene import random_scene

SEED: Final = 24_000_000
METHODS: Final[Mapping[str, Inversion]] = {
    "DDIM": Ddim(),
    "Negative-prompt": NegativePrompt(),
    "Null-text": NullText(),
    "Null-text, begun at the prompt": NullText(begin="prompt"),
    "Direct": Direct(),
    "edit-friendly DDPM": EditFriendly(skip=0.0),
    **{f"Null-text, {name}": knobs for name, knobs in ABLATIONS.items()},
    "DDIM, no guidance": Ddim(),
}


def main(
    count: int = 100,
    steps: int = 50,
    guidance_scale: float = 7.5,
    batch_size: int = 20,
    only: str = "",
    model: Path = MODELS / "stable-diffusion",
) -> None:
    """Invert and draw again.

    Args:
        count: Pictures.
        steps: Denoising steps.
        guidance_scale: Of the way back.
        batch_size: Pictures inverted at once.
        only: Inversions to measure, with semicolons between; empty measures all.
        model: A text-to-image model of the shapes world.
    """
    backbone = load_backbone(model)
    images, prompts = pictures(count)
    with torch.no_grad():
        bound = [backbone.decode(backbone.encode_image(some)) for some in images.split(batch_size)]
    best = psnr(torch.cat(bound), images)
    header("inversion", "pictures", "PSNR", "below the bound", "rows", "with gradient", "s")
    row("autoencoder alone", count, interval(best), "", "", "", "")
    for name in only.split(";") if only else METHODS:
        scale = 1.0 if name == "DDIM, no guidance" else guidance_scale
        measure(name, METHODS[name], backbone, images, prompts, best, steps, scale, batch_size)


def pictures(count: int) -> tuple[Tensor, list[str]]:
    """(N, 3, 64, 64) rendered scenes in [-1, 1], and all that can be said of each.

    Up to 100, fewer are the first of more.
    """
    draw = random.Random(SEED)
    scenes = [random_scene(draw) for _ in range(max(count, 100))]
    prompts = [caption(describe(scene, draw, detail=1.0)) for scene in scenes]
    return torch.stack([from_numpy(render(one)) for one in scenes[:count]]), prompts[:count]


def measure(
    name: str,
    method: Inversion,
    backbone: Backbone,
    images: Tensor,
    prompts: list[str],
    bound: Tensor,
    steps: int,
    guidance_scale: float,
    batch_size: int,
) -> None:
    """Print the row of one method, beside the (N,) PSNR of the autoencoder alone."""
    begin, again = time.perf_counter(), []
    with counted(backbone.unet) as rows:
        for start in range(0, len(images), batch_size):
            inverted = method.invert(
                InversionRequest(
                    backbone=backbone,
                    images=images[start : start + batch_size],
                    prompts=tuple(prompts[start : start + batch_size]),
                    steps=steps,
                    guidance_scale=guidance_scale,
                )
            )
            with torch.no_grad():
                again.append(backbone.decode(reconstruct(backbone, inverted)))
    seconds = (time.perf_counter() - begin) / len(images)
    each = rows.evaluated / len(images), rows.with_gradient / len(images)
    found = psnr(torch.cat(again), images)
    row(
        name,
        len(images),
        interval(found),
        interval(bound - found),
        *(f"{rows_each:.0f}" for rows_each in each),
        f"{seconds:.2f}",
    )


def psnr(found: Tensor, wanted: Tensor) -> Tensor:
    """(N,) PSNR of pictures in [-1, 1], in dB."""
    errors = (found.float() - wanted).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return 10 * torch.log10(4 / errors)


def interval(values: Tensor) -> str:
    """The mean of (N,) values and its 95 % interval."""
    half = 1.96 * values.std() / len(values) ** 0.5
    return f"{values.mean():.2f} ({values.mean() - half:.2f} to {values.mean() + half:.2f})"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
