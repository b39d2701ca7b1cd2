"""What p does: change outside the edited region against p, for `self` and for `cross`.

    python scripts/bench/sharing.py --output out/sharing

Renders 200 triplets of the shapes world (recolour, reshape, background) at ten values of p, the
same noise and guidance for all, and prints the mean change with its 95 % interval, the paired
difference from each p to the next, and the ratio of the largest p to none. It also
writes `sharing.png`.
About 25 minutes on one core, 12 in bfloat16.
"""

from pathlib import Path
from typing import Literal

import matplotlib as mpl
import torch
from jsonargparse import auto_cli
from matplotlib import pyplot as plt

from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.sharing import SharingStudy, study_sharing
from data_gen.shapes import draw_triplets, unconcerned_region
from inference.backbone import load_backbone
from inference.files import written_atomically
from inference.shapes import MODELS

SEED = 3_000_000
PS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main(
    output: Path,
    model: Path = MODELS / "stable-diffusion",
    count: int = 200,
    steps: int = 20,
    guidance: tuple[float, float] = (3.0, 6.0),
    precision: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Run the study.

    Args:
        output: Folder for the plot.
        model: Diffusers folder of the text-to-image model.
        count: Triplets.
        steps: Sampler steps.
        guidance: Range of the guidance scale.
        precision: Of the weights; bfloat16 halves the time on a CPU that has it.
    """
    backbone = load_backbone(model, dtype=getattr(torch, precision))
    triplets = draw_triplets(count, seed=SEED)
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    shares: tuple[Share, ...] = ("self", "cross")
    for share in shares:
        knobs = RenderKnobs(share=share, steps=steps, guidance_range=guidance, batch_rows=128)
        study = study_sharing(backbone, triplets, PS, knobs, unconcerned_region)
        print(table(share, study), flush=True)
        low, high = study.interval()
        axes.plot(study.ps, study.mean(), marker="o", label=f"share: {share}")
        axes.fill_between(study.ps, low, high, alpha=0.2)
    axes.set(xlabel="p, fraction of steps with shared attention", ylabel="change elsewhere")
    axes.set_ylim(bottom=0)
    axes.legend()
    with written_atomically(output / "sharing.png") as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def table(share: str, study: SharingStudy) -> str:
    """The study as Markdown."""
    low, high = study.interval()
    lines = [
        f"share: {share}, {len(study.changes)} triplets ({study.left_out} not readable)",
        "| p | change elsewhere | 95 % | from the p before |",
        "|---|---|---|---|",
    ]
    steps = ["", *(f"{value:+.4f} [{a:+.4f}, {b:+.4f}]" for value, (a, b) in study.steps_down())]
    for column, p in enumerate(study.ps):
        lines.append(
            f"| {p:.1f} | {study.mean()[column]:.4f} | {low[column]:.4f} to {high[column]:.4f} "
            f"| {steps[column]} |"
        )
    ratio, (least, most) = study.ratio()
    lines.append(f"change at p = {study.ps[-1]} over p = {study.ps[0]}: ")
    lines[-1] += f"{ratio:.2f} [{least:.2f}, {most:.2f}]"
    return "\n".join(lines)


if __name__ == "__main__":
    mpl.use("agg")
    auto_cli(main, as_positional=False)
