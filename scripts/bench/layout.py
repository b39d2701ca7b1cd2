"""Whether channels-last pays: the same trees rendered with convolutions in either memory layout.

    python scripts/bench/layout.py --repeats 5

The two take turns within one run, and a second is a second of the thread's CPU time, so that
whatever else the machine does hits both alike or not at all. A few minutes on one core.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from tables import header, row

from data_gen.judging.config import FilterKnobs
from data_gen.recipe import PairKnobs
from data_gen.rendering.config import RenderKnobs
from data_gen.rendering.pairs import render_trees
from data_gen.rendering.trees import draw_tree
from data_gen.shapes import draw_triplets
from data_gen.stages import load_models
from inference.shapes import MODELS

SEED = 5_100_000
RENDER = RenderKnobs(
    share="cross",
    steps=4,
    seeds=2,
    branches=2,
    p_range=(0.6, 0.95),
    guidance_range=(3.0, 6.0),
    sampler="ddim",
)


def main(
    model: Path = MODELS / "stable-diffusion",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    count: int = 2,
    repeats: int = 5,
) -> None:
    """Measure.

    Args:
        model: Diffusers folder of a text-to-image model.
        precision: Of its weights.
        count: Triplets.
        repeats: Turns of each layout.
    """
    torch.set_num_threads(1)
    knobs = PairKnobs(model=str(model), precision=precision, filter=FilterKnobs())
    backbones = {
        layout: load_models(replace(knobs, channels_last=layout == "channels-last"))[0]
        for layout in ("contiguous", "channels-last")
    }
    trees = [
        draw_tree(triplet, seed, RENDER)
        for triplet in draw_triplets(count, seed=SEED)
        for seed in range(RENDER.seeds)
    ]
    spent: dict[str, list[float]] = {layout: [] for layout in backbones}
    drawn = {}
    for turn in range(repeats + 1):
        for layout, backbone in backbones.items():
            begun = time.thread_time()
            grown = render_trees(backbone, trees, RENDER)
            if turn:  # the first warms up
                spent[layout].append(time.thread_time() - begun)
            drawn[layout] = np.stack([pair.edited for one in grown for pair in one.pairs])
    one, other = (values.astype(np.int16) for values in drawn.values())
    ratios = [a / b for a, b in zip(*spent.values(), strict=True)]
    header(
        "precision", "trees", "s: contiguous", "s: channels-last", "faster", "largest difference"
    )
    medians = (f"{median(values):.2f}" for values in spent.values())
    faster = f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
    row(precision, len(trees), *medians, faster, int(np.abs(one - other).max()))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
