"""Null-text inversion of many pictures at once against one at a time, and against the reference.

    python scripts/bench/null_text.py            # 8 pictures, 3 repeats; half an hour on 2 cores

The two alternate in one run. The reference (Mokady et al. 2023, `null_text_w_ptp.ipynb`) takes one
picture; a step costs it one row more than ours, since it evaluates the prompt again for the guided
step. A Markdown table for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from counting import Rows, counted
from inversion import pictures, psnr
from jsonargparse import auto_cli
from torch import Tensor

from inference.backbone import Backbone, load_backbone
from inference.inversion.inverted import InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.shapes import MODELS


@dataclass(frozen=True, kw_only=True)
class Run:
    """One inversion of all pictures."""

    seconds: float
    rows: Rows
    again: Tensor


def main(
    count: int = 8,
    repeats: int = 3,
    steps: int = 50,
    guidance_scale: float = 7.5,
    model: Path = MODELS / "stable-diffusion",
) -> None:
    """Measure.

    Args:
        count: Pictures.
        repeats: How often each of the two runs.
        steps: Denoising steps.
        guidance_scale: Of the way back.
        model: A text-to-image model of the shapes world.
    """
    backbone = load_backbone(model)
    images, prompts = pictures(count)
    print("| early stop | at once | rows | with gradient | pictures a minute | ratio | PSNR |")
    print("|---|---|---|---|---|---|---|")
    for early_stop in (1e-5, 0.0):
        method = NullText(early_stop=early_stop)
        runs: dict[int, list[Run]] = {1: [], count: []}
        for _ in range(repeats):
            for batch, done in runs.items():
                done.append(run(backbone, method, images, prompts, batch, steps, guidance_scale))
        for batch, done in runs.items():
            pace = statistics.median(60 * count / one.seconds for one in done)
            ratios = [one.seconds / other.seconds for one, other in zip(runs[1], done, strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows = done[0].rows
            print(
                f"| {early_stop:g} | {batch} | {rows.evaluated} | {rows.with_gradient} | "
                f"{pace:.1f} | {ratio} | {psnr(done[0].again, images)} |"
            )
            sys.stdout.flush()


def run(
    backbone: Backbone,
    method: NullText,
    images: Tensor,
    prompts: list[str],
    batch: int,
    steps: int,
    guidance_scale: float,
) -> Run:
    """Invert all pictures, `batch` at once, and draw them again (which is not timed)."""
    again, seconds, total = [], 0.0, Rows()
    for start in range(0, len(images), batch):
        request = InversionRequest(
            backbone=backbone,
            images=images[start : start + batch],
            prompts=tuple(prompts[start : start + batch]),
            steps=steps,
            guidance_scale=guidance_scale,
        )
        begin = time.perf_counter()
        with counted(backbone.unet) as rows:
            inverted = method.invert(request)
        seconds += time.perf_counter() - begin
        total = Rows(total.evaluated + rows.evaluated, total.with_gradient + rows.with_gradient)
        with torch.no_grad():
            again.append(backbone.decode(reconstruct(backbone, inverted)))
    return Run(seconds=seconds, rows=total, again=torch.cat(again))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
