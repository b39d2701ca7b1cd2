"""How good a base model is: its pictures of unseen captions, read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from inference.shapes.captions import Description, caption, describe, describes
from inference.shapes.reading import Reading, read
from inference.shapes.scene import random_scene
from training.shapes.scenes import TEST_SEED, rng

ATTRIBUTES: Final = ("shape", "colour", "pattern", "size", "place")
GUIDANCE: Final = 4.0
STEPS: Final = 25
BATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """What became of captions of one figure.

    Attributes:
        count: How many captions.
        right: Share of pictures that surely show what the caption says, in [0, 1].
        sure: Share of pictures of whose content the reader is sure.
        agreement: Share of captions with which the likeliest reading agrees, for each attribute,
            among those that name it.
    """

    count: int
    right: float
    sure: float
    agreement: Mapping[str, float]

    def summary(self) -> str:
        """All of it in one line."""
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.agreement.items())
        return (
            f"{self.right:.1%} of {self.count} unseen one-figure captions come out right "
            f"({self.sure:.0%} read with certainty; likeliest reading: {parts})"
        )


def read_back(pipeline: StableDiffusionPipeline, count: int, sheet: Path | None = None) -> ReadBack:
    """Draw unseen captions with 25 DDIM steps at guidance 4, and read the pictures.

    Args:
        pipeline: The model.
        count: How many captions.
        sheet: Where to save the first 32 pictures, if anywhere.
    """
    said = [unseen_description(index) for index in range(count)]
    pictures: list[Image.Image] = []
    for start in range(0, count, BATCH):
        prompts = [caption(one) for one in said[start : start + BATCH]]
        seeded = [torch.Generator().manual_seed(TEST_SEED + start + i) for i in range(len(prompts))]
        pictures += pipeline(
            prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeded
        ).images
    if sheet is not None:
        save_sheet(pictures[:32], sheet)
    readings = [read(np.asarray(picture)) for picture in pictures]
    return compare(said, readings)


def compare(said: Sequence[Description], readings: Sequence[Reading]) -> ReadBack:
    """Hold readings against the one-figure descriptions that were asked for."""
    hits: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "background", "style")}
    for wanted, reading in zip(said, readings, strict=True):
        (figure,), guess = wanted.figures, reading.guess
        hits["background"].append(wanted.background == guess.background)
        hits["style"].append(wanted.style == guess.style)
        for name in ATTRIBUTES:
            if getattr(figure, name) is not None:
                found = [getattr(one, name) for one in guess.figures]
                hits[name].append(found == [getattr(figure, name)])
    right = [
        reading.scene is not None and describes(wanted, reading.scene)
        for wanted, reading in zip(said, readings, strict=True)
    ]
    return ReadBack(
        count=len(said),
        right=float(np.mean(right)),
        sure=float(np.mean([reading.scene is not None for reading in readings])),
        agreement={name: float(np.mean(values)) for name, values in hits.items()},
    )


def unseen_description(index: int) -> Description:
    """Description `index` of the test, of one figure."""
    draw = rng("read back", TEST_SEED, index)
    return describe(random_scene(draw, figures=1), draw)


def save_sheet(pictures: Sequence[Image.Image], path: Path, columns: int = 8) -> None:
    """Save pictures as one sheet, doubled in size."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * 128, rows * 128))
    for index, picture in enumerate(pictures):
        place = (index % columns * 128, index // columns * 128)
        sheet.paste(picture.resize((128, 128), Image.Resampling.NEAREST), place)
    sheet.save(path)
