"""What an editor is trained on, and how pictures are cut: the options of the data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from data_gen.imports.config import Columns, LayoutName
from inference.number_types import Finite, PixelCount, Positive, checks_numbers

Sides = tuple[int, int]
"""Height and width, in pixels."""


LONGEST_ASPECT: Final = 2.0
"""Of a bucket: a longer picture is cut."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Framing:
    """Knobs of what is done to a pair's images before the VAE sees them.

    Attributes:
        resolution: Side of the square cut from the images, in pixels; None leaves them as stored,
            which must all be of one size.
        enlarge_to: The shorter side is resized to a length drawn from `resolution` to this one and
            the square is cut at a random place (the paper: 256 and 288); None resizes to
            `resolution` and cuts the centre.
        bucket_multiple: Cut not squares but the shape, of about as many pixels, that suits a
            picture's aspect ratio best, with sides that are multiples of this (64 for Stable
            Diffusion) and at most 2 to 1. All pictures of a batch have one shape.
        flip: Mirror half of the pairs. Those whose instruction a mirror would make wrong, as it
            names a side or something written, are not mirrored, see `survives_a_mirror`.
        flip_all: Mirror half of those as well.
    """

    resolution: PixelCount | None = None
    enlarge_to: PixelCount | None = None
    bucket_multiple: PixelCount | None = None
    flip: bool = False
    flip_all: bool = False

    def __post_init__(self) -> None:
        if self.enlarge_to is not None and self.enlarge_to < (self.resolution or math.inf):
            raise ValueError(
                f"framing.enlarge_to is {self.enlarge_to}, expected at least the resolution, "
                f"which is {self.resolution}"
            )
        multiple = self.bucket_multiple
        if multiple is not None and multiple > (self.resolution or 0):
            raise ValueError(
                f"framing.bucket_multiple is {multiple}, expected at most the resolution, which "
                f"is {self.resolution}"
            )
        if self.flip_all and not self.flip:
            raise ValueError("framing.flip_all is true, expected framing.flip to be so too")

    @property
    def is_random(self) -> bool:
        """Whether the same pair may be cut differently another time."""
        return self.flip or self.enlarge_to is not None

    @property
    def buckets(self) -> tuple[Sides, ...]:
        """The shapes that pictures are cut to, from high to wide; empty where there are none."""
        if self.bucket_multiple is None or self.resolution is None:
            return ()
        return buckets(self.resolution, self.bucket_multiple)


@cache
def buckets(resolution: int, multiple: int) -> tuple[Sides, ...]:
    """Heights and widths of at most `resolution`² pixels, from high to wide, up to 2 to 1.

    For every width it is the largest height, both multiples of `multiple`, as NovelAI did it for
    Stable Diffusion (2022, "Aspect Ratio Bucketing").
    """
    most = resolution * resolution
    longest = int(resolution * math.sqrt(LONGEST_ASPECT))
    found = {
        (most // width // multiple * multiple, width)
        for width in range(multiple, longest + 1, multiple)
    }
    fitting = {
        (height, width)
        for height, width in found | {(width, height) for height, width in found}
        if 0 < max(height, width) <= LONGEST_ASPECT * min(height, width)
    }
    return tuple(sorted(fitting, key=lambda sides: (sides[1] / sides[0], sides)))


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class PairSet:
    """One data set to train on.

    Attributes:
        path: Folder or URL of shards. In other layouts a jsonl beside its pictures, a folder, a
            parquet file, or a name on the hub.
        layout: How it comes: as shards, or as `data_gen import` knows it, without importing.
        columns: Names of its columns or keys, where they are not the layout's usual ones.
        split: Which split of what `datasets` loads.
        weight: Its share of the samples, against the other sets' weights; null for all sets gives
            each as many as it has groups, so that an epoch of one is an epoch of all.
        at_least: Score -> the least that a pair must have, such as {directional: 0.2}. A pair
            without the score is not used.
        at_most: Score -> the most that it may have, such as {surprise: 0.1}.
    """

    path: str
    layout: LayoutName = "shards"
    columns: Columns | None = None
    split: str = "train"
    weight: Positive | None = None
    at_least: Mapping[str, Finite] = field(default_factory=dict)
    at_most: Mapping[str, Finite] = field(default_factory=dict)


Faulty = Literal["refuse", "leave_out"]
