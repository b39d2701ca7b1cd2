"""How good a base model is: its pictures of unseen captions, read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from inference.files import written_atomically
from inference.shapes.captions import Description, caption, describe, describes
from inference.shapes.reading import Reading, read
from inference.shapes.scene import Combinations, Scene, random_scene
from training.shapes.scenes import TEST_SEED, rng

ATTRIBUTES: Final = ("shape", "colour", "pattern", "size", "place")
GUIDANCE: Final = 4.0
STEPS: Final = 25
BATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """What became of a number of captions.

    Attributes:
        right: For each caption, whether its picture surely shows all that it says: (N,) bool.
        essentials: Whether the picture surely shows the shapes and colours of its figures, no
            figure more, and its background: (N,) bool.
        sure: Whether the reader is sure of what the picture shows: (N,) bool.
        agreement: Share of figures (or pictures) with which the likeliest reading agrees, for
            each attribute, among those whose caption names it, in [0, 1].
    """

    right: NDArray[np.bool_]
    essentials: NDArray[np.bool_]
    sure: NDArray[np.bool_]
    agreement: Mapping[str, float]

    def summary(self) -> str:
        """All of it in one line."""
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.agreement.items())
        return (
            f"{self.right.mean():.1%} of {len(self.right)} unseen captions come out right, "
            f"{self.essentials.mean():.1%} in shape, colour and background "
            f"({self.sure.mean():.0%} read with certainty; likeliest reading: {parts})"
        )


def read_back(
    pipeline: StableDiffusionPipeline, said: Sequence[Description], sheet: Path | None = None
) -> ReadBack:
    """Draw captions with 25 steps of the pipeline's scheduler at guidance 4, and read the pictures.

    Args:
        pipeline: The model.
        said: What the captions say; the noise of each is a function of its place.
        sheet: Where to save the first 32 pictures, if anywhere.
    """
    pictures: list[Image.Image] = []
    for start in range(0, len(said), BATCH):
        prompts = [caption(one) for one in said[start : start + BATCH]]
        seeded = [torch.Generator().manual_seed(TEST_SEED + start + i) for i in range(len(prompts))]
        pictures += pipeline(
            prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeded
        ).images
    if sheet is not None:
        save_sheet(pictures[:32], sheet)
    return compare(said, [read(np.asarray(picture)) for picture in pictures])


def compare(said: Sequence[Description], readings: Sequence[Reading]) -> ReadBack:
    """Hold readings against the descriptions that were asked for."""
    hits: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "background", "style")}
    for wanted, reading in zip(said, readings, strict=True):
        guess = reading.guess
        found = {figure.shape: figure for figure in guess.figures}
        hits["background"].append(wanted.background == guess.background)
        hits["style"].append(wanted.style == guess.style)
        hits["shape"].append({one.shape for one in wanted.figures} == found.keys())
        for figure in wanted.figures:
            # Of a single figure all can be compared, whatever its shape came out as.
            alone = guess.figures[0] if len(wanted.figures) == len(guess.figures) == 1 else None
            drawn = found.get(figure.shape, alone)
            for name in ATTRIBUTES[1:]:
                if getattr(figure, name) is not None:
                    hits[name].append(getattr(figure, name) == getattr(drawn, name, None))
    pairs = [(wanted, reading.scene) for wanted, reading in zip(said, readings, strict=True)]
    return ReadBack(
        right=np.array([scene is not None and describes(wanted, scene) for wanted, scene in pairs]),
        essentials=np.array(
            [scene is not None and _agree(wanted, scene) for wanted, scene in pairs]
        ),
        sure=np.array([scene is not None for _, scene in pairs]),
        agreement={name: float(np.mean(values)) for name, values in hits.items()},
    )


def _agree(said: Description, scene: Scene) -> bool:
    wanted = {(figure.shape, figure.colour) for figure in said.figures}
    shown = {(figure.shape, figure.colour) for figure in scene.figures}
    return wanted == shown and said.background == scene.background


def unseen_descriptions(
    count: int,
    figures: int = 1,
    combinations: Combinations = "train",
    seed: int = TEST_SEED,
) -> list[Description]:
    """The first `count` descriptions of a test.

    Args:
        count: How many.
        figures: Figures of each, 1 or 2.
        combinations: Of shape and colour; see `random_scene`.
        seed: Which test; see `TEST_SEED`.
    """
    draws = (rng("read back", seed, index) for index in range(count))
    return [
        describe(random_scene(draw, figures=figures, combinations=combinations), draw)
        for draw in draws
    ]


def save_sheet(pictures: Sequence[Image.Image], path: Path, columns: int = 8) -> None:
    """Save pictures as one sheet, doubled in size."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * 128, rows * 128))
    for index, picture in enumerate(pictures):
        place = (index % columns * 128, index // columns * 128)
        sheet.paste(picture.resize((128, 128), Image.Resampling.NEAREST), place)
    with written_atomically(path) as temporary:
        sheet.save(temporary, format="PNG")
