"""How much of a picture a reading leaves unexplained, and how much of that is too much.

The limits are calibrated so that what an autoencoder and JPEG do to a picture passes, and what
changes its meaning does not. `scripts/bench/reading.py` measures both.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from inference.shapes.layers import PAD, Placed, outline, patches, shade, windows
from inference.shapes.render import Field, colour
from inference.shapes.vocabulary import SHAPES, SIZES

RESIDUAL_LIMIT: Final = 0.08
"""Residual beyond which one is not sure.

Calibrated on 200 to 400 pictures of each kind. Of scenes that are read rightly, the median and the
99 % quantile are 0 as drawn, 0.013 and 0.05 after an autoencoder of 37 dB and JPEG, 0.024 and 0.07
where JPEG also halves the colours' resolution. Of near-misses that look most like the original, the
least and median are 0.086 and 0.22 for a ghost of 30 %, 0.12 and 0.25 for half a recolour. Plain
means over boxes of 5x5 pixels do not tell the two sorts apart: 0.2 there, and 0.1 here.
"""
TEXTURE_LIMIT: Final = 0.035
"""Texture beyond which one is not sure.

Of scenes read rightly, the 99 % quantile is 0.015 after an autoencoder and JPEG, 0.027 where JPEG
also halves the colours' resolution. A pattern itself has 0.038 (dotted) or 0.05.
"""
ERROR_LIMIT: Final = 0.01
"""Mean squared error (20 dB) beyond which one is not sure, whatever its residual."""
BUSY: Final = 0.005
"""Local variance of a drawing at which an error there counts half."""


def residual(picture: Field, drawn: Field) -> float:
    """The largest mean colour error over the area of any figure at any cell.

    Errors at edges, of which a compressed picture is full, cancel over an area and weigh little
    where the drawing itself is busy. What could be a figure stays: a faint second one, or one whose
    colour is only half right.

    Args:
        picture: (64, 64, 3) in [0, 1].
        drawn: What was read, drawn again.

    Returns:
        A distance in RGB: 0 for equal pictures, 1.7 for black instead of white.
    """
    weight = 1 / (1 + _contrast(drawn) / BUSY)
    weights = np.pad(weight, PAD)[..., None]
    errors = np.pad((picture - drawn), ((PAD, PAD), (PAD, PAD), (0, 0))) * weights
    largest = 0.0
    for size in SIZES:
        inside = np.stack([outline(shape, size).inside.ravel() for shape in SHAPES], axis=1)
        sums = (patches(windows(errors, size)) @ inside).reshape(-1, 3, len(SHAPES))
        areas = patches(windows(weights, size)) @ np.square(inside)
        largest = max(largest, float((np.linalg.norm(sums, axis=1) / areas).max()))
    return largest


def texture(pixels: Field, within: NDArray[np.bool_], placed: Placed) -> float:
    """The variance within a figure that its pattern does not explain, however faded it is.

    Args:
        pixels: (N, 3), the picture where the figure shows its pattern and nothing else.
        within: (P, P), where these pixels lie in the figure's window.
        placed: The figure.

    Returns:
        The variance, in units of the squared length of the figure's colour.
    """
    paint = colour(placed.figure.colour)
    tones = shade(placed.figure.pattern, placed.figure.size, placed.phase)[within]
    wave = (tones - tones.mean())[:, None] * paint
    seen = pixels - pixels.mean(axis=0)
    share = np.clip((wave * seen).sum() / max(float(np.square(wave).sum()), 1e-6), 0, 1)
    return float(np.square(seen - share * wave).sum(axis=1).mean() / np.square(paint).sum())


def _contrast(drawn: Field) -> Field:
    """Variance of the 3x3 pixels around each, added over the channels: (64, 64)."""
    around = np.pad(drawn, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = np.concatenate([around, np.square(around)], axis=-1)
    around = around[:-2] + around[1:-1] + around[2:]
    mean, square = np.split((around[:, :-2] + around[:, 1:-1] + around[:, 2:]) / 9, 2, axis=-1)
    variance: Field = np.maximum(square - np.square(mean), 0).sum(axis=-1)
    return variance
