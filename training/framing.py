"""Cut the two images of a pair to one size, in the same way.

InstructPix2Pix resizes to a square and squashes the picture; here the aspect ratio stays. What is
random about it is drawn by the caller, so that it can be a function of the sample.
"""

from dataclasses import dataclass, replace

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


def frame(
    pair: tuple[Pixels, Pixels], knobs: Framing, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Cut both images of a pair, (H, W, 3) of equal size, by the same draws.

    Args:
        pair: Source and edited image.
        knobs: What to do.
        rng: Source of the draws; always as many, whatever the knobs.
    """
    size, left, top, mirror = rng.random(4)
    source, edited = (_cut(image, knobs, size, left, top) for image in pair)
    if knobs.flip and mirror < 0.5:
        source, edited = source[:, ::-1], edited[:, ::-1]
    return np.ascontiguousarray(source), np.ascontiguousarray(edited)


def _cut(image: Pixels, knobs: Framing, size: float, left: float, top: float) -> Pixels:
    if knobs.resolution is None:
        return image
    shorter = knobs.resolution
    if knobs.enlarge_to is None:
        left = top = 0.5
    else:
        shorter += int(size * (knobs.enlarge_to - knobs.resolution + 1))
    height, width = image.shape[:2]
    scale = shorter / min(height, width)
    height, width = round(height * scale), round(width * scale)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    x = int(left * (width - knobs.resolution + 1))
    y = int(top * (height - knobs.resolution + 1))
    cropped = resized.crop((x, y, x + knobs.resolution, y + knobs.resolution))
    return np.asarray(cropped)
