"""What the prefix tree over p saves: UNet rows and wall time against independent rendering.

    python scripts/bench/tree.py --repeats 3

Renders the same candidates of a few triplets of the shapes world twice: as trees, and one by one
(each with a source of its own, as InstructPix2Pix's renderer does), in batches of the same size.
The two alternate within one run, so that whatever else the machine does hits both. Prints one line
for `RESULTS.md`. About 5 minutes on 2 cores.
"""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jsonargparse import auto_cli

from data_gen.records import ImagePair
from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.pairs import render_trees
from data_gen.rendering.trees import Tree, draw_tree
from data_gen.shapes import draw_triplets
from inference.backbone import Backbone, load_backbone
from inference.progress import ProgressBar
from inference.shapes import MODELS

SEED = 4_000_000

HEADER = (
    "| share | k | steps | triplets | repeats | device | rows: tree | rows: independent | fewer "
    "| s: tree | s: independent | faster, wall | faster, CPU time | largest difference |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One rendering: what came out and what it cost."""

    pairs: list[ImagePair]
    rows: int
    wall_seconds: float
    cpu_seconds: float


def main(
    model: Path = MODELS / "stable-diffusion",
    k: int = 8,
    count: int = 4,
    steps: int = 25,
    share: Share = "self",
    repeats: int = 3,
    device: str = "cpu",
    batch_rows: int = 64,
) -> None:
    """Measure.

    Args:
        model: Diffusers folder of a text-to-image model.
        k: Values of p a tree.
        count: Triplets, one tree each.
        steps: Sampler steps.
        share: What source and target share.
        repeats: Times that each way is measured, after one warm-up.
        device: Where to run.
        batch_rows: UNet rows a call, at most.
    """
    backbone = load_backbone(model, device=device)
    knobs = RenderKnobs(
        share=share, steps=steps, branches=k, guidance_range=(3.0, 6.0), batch_rows=batch_rows
    )
    trees = [draw_tree(triplet, 0, knobs) for triplet in draw_triplets(count, seed=SEED)]
    alone = [replace(tree, ps=(p,)) for tree in trees for p in tree.ps]
    render_trees(backbone, trees[:1], knobs)  # warm-up
    grown: list[Measured] = []
    independent: list[Measured] = []
    for repeat in ProgressBar(range(repeats), desc="measure"):
        ways = [(grown, trees), (independent, alone)]
        for results, planted in ways if repeat % 2 == 0 else ways[::-1]:
            results.append(render(backbone, planted, knobs))
    fewer = independent[0].rows / grown[0].rows
    print(HEADER)
    print(
        f"| {share} | {k} | {steps} | {count} | {repeats} | {machine(device)} | {grown[0].rows} "
        f"| {independent[0].rows} | {fewer:.2f}x "
        f"| {median(one.wall_seconds for one in grown):.1f} "
        f"| {median(one.wall_seconds for one in independent):.1f} "
        f"| {faster(grown, independent, 'wall_seconds')} "
        f"| {faster(grown, independent, 'cpu_seconds') if device == 'cpu' else '-'} "
        f"| {largest_difference(grown[0].pairs, independent[0].pairs)} of 255 |"
    )


def render(backbone: Backbone, trees: Sequence[Tree], knobs: RenderKnobs) -> Measured:
    """Render the trees and take the time."""
    counted: list[int] = []
    wall, cpu = time.perf_counter(), time.process_time()
    # The pixels arrive on the CPU, so nothing is left running on a device.
    rendered = render_trees(backbone, trees, knobs, progress=counted.append)
    return Measured(
        pairs=[pair for grown in rendered for pair in grown.pairs],
        rows=sum(counted),
        wall_seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
    )


def faster(grown: list[Measured], independent: list[Measured], clock: str) -> str:
    """Median and range of the ratios within each repeat: neighbours come and go between them."""
    ratios = [
        getattr(slow, clock) / getattr(fast, clock)
        for fast, slow in zip(grown, independent, strict=True)
    ]
    return f"{median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def largest_difference(grown: list[ImagePair], independent: list[ImagePair]) -> int:
    """Largest difference of any pixel between the two ways, in grey levels."""
    return max(
        int(np.abs(one.edited.astype(int) - other.edited).max())
        for one, other in zip(grown, independent, strict=True)
    )


def machine(device: str) -> str:
    """Name what it ran on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
