"""Cut the two images of a pair to one size, in the same way.

InstructPix2Pix resizes to a square and squashes the picture; here the aspect ratio stays. What is
random about it is drawn by the caller, so that it can be a function of the sample. What was done is
kept: SDXL is told of it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.config import Framing, Sides

Pixels = NDArray[np.uint8]
"""One image, (H, W, 3), RGB, 0..255."""


_MIRRORED_WRONGLY: Final = re.compile(
    r"""\b(?:
        (?:left|right) (?:most | wards? | -?hand (?:ed)?)?
        | (?:anti|counter)? -? clockwise | (?:east|west) (?:ern|wards?)?
        | mirror (?:ed|ing)? | flip (?:ped|ping)?
        | texts? | words? | letters? | lettering | captions? | writ (?:e|es|ing|ten)
        | says? | saying | reads | reading | spell (?:s|ed|ing)? | logos? | signs? | numbers?
        | digits? | clocks?
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def nearest(shapes: Sequence[Sides], height: int, width: int) -> int:
    """Which of some shapes comes closest to a picture's aspect ratio."""
    aspect = math.log(width / height)
    distances = [abs(math.log(w / h) - aspect) for h, w in shapes]
    return distances.index(min(distances))


def survives_a_mirror(instruction: str) -> bool:
    """Whether a mirrored pair still does what its instruction says.

    Not where it speaks of left and right, of east and west, of turning clockwise, of mirrors, or of
    what is written: mirrored letters are no letters.
    """
    return _MIRRORED_WRONGLY.search(instruction) is None


class Sizes(NamedTuple):
    """What SDXL is told of a picture, in pixels (Podell et al. 2023, section 2.2)."""

    original_height: int
    original_width: int
    top: int
    left: int
    target_height: int
    target_width: int


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is done to both images of a pair.

    Attributes:
        original: Sides of the source image.
        resized: What it is resized to.
        top, left: Where in that the piece begins, before it is mirrored.
        target: Sides of the piece.
        mirrored: Whether the piece is mirrored.
    """

    original: Sides
    resized: Sides
    top: int
    left: int
    target: Sides
    mirrored: bool

    @property
    def sizes(self) -> Sizes:
        """As the model sees it: of a mirrored picture, `left` is that of the mirrored one."""
        left = self.resized[1] - self.left - self.target[1] if self.mirrored else self.left
        return Sizes(*self.original, self.top, left, *self.target)

    def of(self, image: Pixels) -> Pixels:
        """Cut an image; one that is larger or smaller than the source shows the same piece."""
        height, width = self.target
        if image.shape[:2] == self.resized:
            piece = image[self.top : self.top + height, self.left : self.left + width]
        else:
            # Lanczos over the piece alone gives what it gives over the whole, for less.
            y, x = (
                found / wanted for found, wanted in zip(image.shape, self.resized, strict=False)
            )
            box = (self.left * x, self.top * y, (self.left + width) * x, (self.top + height) * y)
            picture = Image.fromarray(image)
            piece = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box))
        return np.ascontiguousarray(piece[:, ::-1] if self.mirrored else piece)


def plan_cut(
    original: Sides,
    knobs: Framing,
    rng: np.random.Generator | None,
    *,
    bucket: int = 0,
    may_mirror: bool = True,
) -> Cut:
    """Draw what is done to a pair.

    Args:
        original: Sides of its source image.
        knobs: What to do.
        rng: Source of the draws; always as many, whatever the knobs. None for knobs without chance.
        bucket: Number of the shape, where there are several.
        may_mirror: Whether the pair is one that may be mirrored.
    """
    size, left, top, mirror = (0.5,) * 4 if rng is None else rng.random(4)
    mirrored = knobs.flip and may_mirror and mirror < 0.5
    if knobs.resolution is None:
        return Cut(
            original=original, resized=original, top=0, left=0, target=original, mirrored=mirrored
        )
    shorter = knobs.resolution
    if knobs.enlarge_to is None:
        left = top = 0.5
    else:
        shorter += int(size * (knobs.enlarge_to - knobs.resolution + 1))
    target = knobs.buckets[bucket] if knobs.buckets else (knobs.resolution, knobs.resolution)
    covering = max(target[0] / original[0], target[1] / original[1])
    scale = covering * (shorter / knobs.resolution)
    height, width = (
        max(least, round(side * scale)) for least, side in zip(target, original, strict=True)
    )
    return Cut(
        original=original,
        resized=(height, width),
        top=int(top * (height - target[0] + 1)),
        left=int(left * (width - target[1] + 1)),
        target=target,
        mirrored=mirrored,
    )


def steady(framing: Framing, source: Pixels, edited: Pixels) -> tuple[Pixels, Pixels]:
    """Cut a pair to size without chance: the centre, not mirrored, a square."""
    calm = replace(framing, enlarge_to=None, bucket_multiple=None, flip=False, flip_all=False)
    return frame((source, edited), calm, np.random.default_rng(0))


def frame(
    pair: tuple[Pixels, Pixels], knobs: Framing, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Cut both images of a pair by the same draws; see `plan_cut`."""
    cut = plan_cut(pair[0].shape[:2], knobs, rng)
    source, edited = map(cut.of, pair)
    return source, edited
