"""Cut the two images of a pair to one size, in the same way.

InstructPix2Pix resizes to a square and squashes the picture; here the aspect ratio stays. What is
random about it is drawn by the caller, so that it can be a function of the sample.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""One image, (H, W, 3), RGB, 0..255."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Knobs of what is done to a pair's images before the VAE sees them.

    Attributes:
        resolution: Side of the square cut from the images, in pixels; None leaves them as stored.
        enlarge_to: The shorter side is resized to a length drawn from `resolution` to this one and
            the square is cut at a random place (the paper: 256 and 288); None resizes to
            `resolution` and cuts the centre.
        flip: Mirror half of the pairs. Off where instructions say left or right.
    """

    resolution: int | None = None
    enlarge_to: int | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.enlarge_to is not None and self.enlarge_to < (self.resolution or np.inf):
            raise ValueError(
                f"framing.enlarge_to is {self.enlarge_to}, expected at least the resolution, "
                f"which is {self.resolution}"
            )

    def steady(self, source: Pixels, edited: Pixels) -> tuple[Pixels, Pixels]:
        """Cut a pair to size without chance: the centre, not mirrored."""
        calm = replace(self, enlarge_to=None, flip=False)
        return frame((source, edited), calm, np.random.default_rng(0))

    @property
    def is_random(self) -> bool:
        """Whether the same pair may be cut differently another time."""
        return self.flip or self.enlarge_to is not None


class Framed(NamedTuple):
    """A pair of one size, and what was done to it."""

    source: Pixels
    edited: Pixels
    sizes: tuple[int, int, int, int, int, int]
    """What SDXL is told of a picture (Podell et al. 2023, section 2.2), in pixels: height and width
    as stored, top and left of the cut in the resized image, height and width of the cut."""


def frame(
    pair: tuple[Pixels, Pixels], knobs: Framing, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Cut both images of a pair as `framed` does."""
    source, edited, _ = framed(pair, knobs, rng)
    return source, edited


def framed(pair: tuple[Pixels, Pixels], knobs: Framing, rng: np.random.Generator) -> Framed:
    """Cut both images of a pair, (H, W, 3) of equal size, by the same draws.

    Args:
        pair: Source and edited image.
        knobs: What to do.
        rng: Source of the draws; always as many, whatever the knobs.
    """
    size, left, top, mirror = rng.random(4)
    mirrored = knobs.flip and mirror < 0.5
    cut = _Cut.of(pair[0].shape[:2], knobs, size, left, top)
    source, edited = (cut.apply(image) for image in pair)
    if mirrored:
        source, edited = source[:, ::-1], edited[:, ::-1]
    return Framed(
        np.ascontiguousarray(source), np.ascontiguousarray(edited), cut.sizes(mirrored=mirrored)
    )


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """From a stored height and width to a resized one, and a window into that."""

    stored: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @staticmethod
    def of(stored: tuple[int, ...], knobs: Framing, size: float, left: float, top: float) -> "_Cut":
        height, width = stored
        if knobs.resolution is None:
            return _Cut(
                stored=(height, width),
                resized=(height, width),
                top=0,
                left=0,
                height=height,
                width=width,
            )
        shorter = knobs.resolution
        if knobs.enlarge_to is None:
            left = top = 0.5
        else:
            shorter += int(size * (knobs.enlarge_to - knobs.resolution + 1))
        scale = shorter / min(height, width)
        resized = round(height * scale), round(width * scale)
        return _Cut(
            stored=(height, width),
            resized=resized,
            top=int(top * (resized[0] - knobs.resolution + 1)),
            left=int(left * (resized[1] - knobs.resolution + 1)),
            height=knobs.resolution,
            width=knobs.resolution,
        )

    def apply(self, image: Pixels) -> Pixels:
        if (self.height, self.width) == self.resized == self.stored:
            return image
        height, width = self.resized
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        right, bottom = self.left + self.width, self.top + self.height
        return np.asarray(resized.crop((self.left, self.top, right, bottom)))

    def sizes(self, *, mirrored: bool) -> tuple[int, int, int, int, int, int]:
        left = self.resized[1] - self.width - self.left if mirrored else self.left
        return (*self.stored, self.top, left, self.height, self.width)
