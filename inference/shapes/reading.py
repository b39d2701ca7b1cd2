"""Read a picture back into the scene it shows, or say that one is not sure.

Pictures of this world are few enough to try them all. Against a bare background, the squared error
of a figure is a sum of products of its layers with the picture (`layers.py`), so one matrix product
gives the error of every shape, size, cell, pattern, colour and style at once. Figures keep apart,
so their gains add up, and the best one or two are found by looking. The answer is drawn again, and
what then remains is the confidence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.shapes.layers import (
    PAD,
    PALETTE,
    Placed,
    compose,
    energy,
    outline,
    stock,
    windows,
)
from inference.shapes.render import INK, Field, colour
from inference.shapes.scene import CANVAS, CELLS, GAP, PITCH, RADIUS, Figure, Scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, SHAPES, SIZES, STYLES

RESIDUAL_LIMIT: Final = 0.085
"""Residual beyond which one is not sure.

Calibrated on 200 to 400 pictures of each kind. Of scenes that are read rightly, the median and the
99 % quantile are 0 as drawn, 0.013 and 0.05 after an autoencoder of 37 dB and JPEG, 0.024 and 0.07
where JPEG also halves the colours' resolution. Of near-misses that look most like the original, the
least and median are 0.086 and 0.22 for a ghost of 30 %, 0.12 and 0.25 for half a recolour. Plain
means over boxes of 5x5 pixels do not tell the two sorts apart: 0.2 there, and 0.1 here.
"""
ERROR_LIMIT: Final = 0.01
"""Mean squared error (20 dB) beyond which one is not sure, whatever its residual."""
BUSY: Final = 0.005
"""Local variance of a drawing at which an error there counts half."""
CLEAR: Final = 0.001
"""Mean squared error below which the search ends on the grid."""
AREA: Final = 7
"""Side in pixels of the area over which the search averages errors."""
LASTING: Final = 8
"""How much more such a mean error counts than the error of a pixel."""
SHIFTS: Final = ((0, 0), *((x, y) for x, y in product((-1, 0, 1), repeat=2) if (x, y) != (0, 0)))
"""Pixels (right, down) by which a figure may stand off its cell."""
SHORTLIST: Final = 32
"""How many first figures are tried with every second one."""
LOOSENED: Final = 8
"""How many figures, and seconds to the best of them, are tried off their cells."""

_COLOURS: Final = tuple(COLOURS)
_LOOKS: Final = tuple(product(PATTERNS, COLOURS))

Index = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a picture shows.

    Attributes:
        scene: The scene, or None where one is not sure.
        residual: What drawing the scene again leaves unexplained: the largest mean colour error
            over the area of any figure at any cell, as a distance in RGB, 0 or more.
        error: Mean squared error of the scene drawn again, per channel.
        guess: The likeliest scene, sure or not.
    """

    scene: Scene | None
    residual: float
    error: float
    guess: Scene


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A scene with its figures where they really stand, and the picture that it makes."""

    background: str
    style: str
    figures: tuple[Placed, ...]
    drawn: Field

    def error(self, picture: Field) -> float:
        return float(np.square(picture - self.drawn).mean())


@dataclass(frozen=True, kw_only=True)
class _Spots:
    """Every size, cell and shape in one long list, (S,) each; `compatible` is (S, S)."""

    size: Index
    row: Index
    column: Index
    shape: Index
    compatible: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """The best look of a figure at each spot, in each style: (styles, S) each.

    Attributes:
        gain: By how much the figure raises the squared error over that of the bare background;
            below 0 where it is there.
        look: Index into `_LOOKS`.
        shift: Index into `SHIFTS`.
    """

    gain: Field
    look: Index
    shift: Index


def read(image: NDArray[Any]) -> Reading:
    """Read a picture.

    Args:
        image: (H, W, 3), uint8 or float in [0, 1]. Any size; it is brought to 64x64.

    Raises:
        ValueError: The array is not a picture.
    """
    picture = to_canvas(image)
    background = _background(picture)
    difference = np.pad(picture - colour(background), ((PAD, PAD), (PAD, PAD), (0, 0)))
    fit = _fit(difference, background)
    answer = _best(picture, _answers(background, fit))
    if answer.error(picture) > CLEAR:
        answer = _best(picture, _answers(background, _loosened(fit, difference, background)))
    answer = _best(picture, _repatterned(answer))
    error, rest = answer.error(picture), residual(picture, answer.drawn)
    guess = Scene(
        figures=tuple(placed.figure for placed in answer.figures),
        background=background,
        style=answer.style,
    )
    sure = rest <= RESIDUAL_LIMIT and error <= ERROR_LIMIT
    return Reading(scene=guess if sure else None, residual=rest, error=error, guess=guess)


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
        sums = (_patches(windows(errors, size)) @ inside).reshape(-1, 3, len(SHAPES))
        areas = _patches(windows(weights, size)) @ np.square(inside)
        largest = max(largest, float((np.linalg.norm(sums, axis=1) / areas).max()))
    return largest


def _contrast(drawn: Field) -> Field:
    """Variance of the 3x3 pixels around each, added over the channels: (64, 64)."""
    around = np.pad(drawn, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = np.concatenate([around, np.square(around)], axis=-1)
    around = around[:-2] + around[1:-1] + around[2:]
    mean, square = np.split((around[:, :-2] + around[:, 1:-1] + around[:, 2:]) / 9, 2, axis=-1)
    variance: Field = np.maximum(square - np.square(mean), 0).sum(axis=-1)
    return variance


def to_canvas(image: NDArray[Any]) -> Field:
    """Check a picture and bring it to (64, 64, 3) float32 in [0, 1].

    Raises:
        ValueError: It has another shape, type or range.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a picture must have shape (height, width, 3), found {image.shape}")
    if image.dtype == np.uint8:
        picture = image.astype(np.float32) / 255
    elif np.issubdtype(image.dtype, np.floating):
        picture = image.astype(np.float32)
    else:
        raise ValueError(f"a picture must be uint8 or float, found {image.dtype}")
    lowest, highest = float(picture.min()), float(picture.max())
    if not (lowest >= -0.02 and highest <= 1.02):  # also where there are NaNs
        raise ValueError(f"a float picture must lie in [0, 1], found [{lowest:.3g}, {highest:.3g}]")
    if picture.shape[:2] == (CANVAS, CANVAS):
        return picture
    shrinks = min(picture.shape[:2]) > CANVAS
    kind = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    channels = (
        Image.fromarray(np.ascontiguousarray(channel)) for channel in picture.transpose(2, 0, 1)
    )
    return np.stack(
        [np.asarray(channel.resize((CANVAS, CANVAS), kind)) for channel in channels], axis=-1
    )


def _background(picture: Field) -> str:
    """The colour of most pixels: figures never cover half of the canvas."""
    middle = np.median(picture.reshape(-1, 3), axis=0)
    return _COLOURS[int(np.square(PALETTE - middle).sum(axis=1).argmin())]


def _fit(difference: Field, background: str) -> _Fit:
    """Match every figure at every cell."""
    gains, looks = [], []
    for size in SIZES:
        gain, look = _match(_patches(windows(difference, size)), size, background)
        gains.append(gain.transpose(1, 0, 2).reshape(len(STYLES), -1))
        looks.append(look.transpose(1, 0, 2).reshape(len(STYLES), -1))
    look = np.concatenate(looks, axis=1)
    return _Fit(gain=np.concatenate(gains, axis=1), look=look, shift=np.zeros_like(look))


def _match(patches: Field, size: str, background: str) -> tuple[Field, Index]:
    """The gain of each figure's best look, and that look: (N, styles, shapes) each.

    Args:
        patches: (N·3, P·P) windows of the picture less its background, channel after channel.
        size: Of the figures to match.
        background: Its name.
    """
    kinds = stock(size)
    matched = (patches @ kinds.templates).reshape(-1, 3, kinds.templates.shape[1])
    bare = np.tensordot(matched, colour(background), axes=(1, 0))[:, kinds.behind]
    bare = bare + np.tensordot(matched, INK, axes=(1, 0))[:, kinds.ink]
    painted = np.tensordot(matched, PALETTE, axes=(1, 1))[:, kinds.paint]
    gains = energy(size, background) - 2 * (painted + bare[..., None, None])
    gains[..., _COLOURS.index(background)] = np.inf
    gains = gains.reshape(*gains.shape[:3], len(_LOOKS))
    look = gains.argmin(axis=-1)
    return np.take_along_axis(gains, look[..., None], axis=-1)[..., 0], look


def _loosened(fit: _Fit, difference: Field, background: str) -> _Fit:
    """Match the likeliest figures again, at every one of `SHIFTS`."""
    spots = _spots()
    gain, look, shift = fit.gain.copy(), fit.look.copy(), fit.shift.copy()
    likeliest = {int(spot) for style in range(len(STYLES)) for spot in _likeliest(fit.gain[style])}
    cells = {(int(spots.size[s]), int(spots.row[s]), int(spots.column[s])) for s in likeliest}
    views = [[windows(difference, size, *move) for move in SHIFTS] for size in SIZES]
    for size, row, column in cells:
        start = CELLS[SIZES[size]].start
        moved = np.stack([view[row - start, column - start] for view in views[size]])
        gains, looks = _match(_patches(moved), SIZES[size], background)
        best = gains.argmin(axis=0)
        here = np.flatnonzero((spots.size == size) & (spots.row == row) & (spots.column == column))
        gain[:, here] = np.take_along_axis(gains, best[None], axis=0)[0]
        look[:, here] = np.take_along_axis(looks, best[None], axis=0)[0]
        shift[:, here] = best
    return _Fit(gain=gain, look=look, shift=shift)


def _likeliest(gain: Field) -> Iterator[int]:
    """Spots of the best figures of one style, and of the best second ones to the first of them."""
    yield from np.argpartition(gain, LOOSENED)[:LOOSENED]
    seconds = np.where(_spots().compatible[int(gain.argmin())], gain, np.inf)
    yield from np.argpartition(seconds, LOOSENED)[:LOOSENED]


def _answers(background: str, fit: _Fit) -> Iterator[_Answer]:
    """The best scene of each style."""
    spots = _spots()
    for i, style in enumerate(STYLES):
        figures = tuple(
            Placed(
                figure=Figure(
                    shape=SHAPES[spots.shape[spot]],
                    size=SIZES[spots.size[spot]],
                    column=int(spots.column[spot]),
                    row=int(spots.row[spot]),
                    pattern=_LOOKS[fit.look[i, spot]][0],
                    colour=_LOOKS[fit.look[i, spot]][1],
                ),
                right=SHIFTS[fit.shift[i, spot]][0],
                down=SHIFTS[fit.shift[i, spot]][1],
            )
            for spot in _chosen(fit.gain[i])
        )
        drawn = compose(background, style, figures)
        yield _Answer(background=background, style=style, figures=figures, drawn=drawn)


def _chosen(gain: Field) -> Sequence[int]:
    """The one or two spots whose figures explain the picture best."""
    firsts = np.argpartition(gain, SHORTLIST)[:SHORTLIST]
    pairs = np.where(_spots().compatible[firsts], gain, np.inf)
    seconds = pairs.argmin(axis=1)
    added = np.minimum(pairs[np.arange(SHORTLIST), seconds], 0)
    best = int((gain[firsts] + added).argmin())
    return [int(firsts[best]), int(seconds[best])][: 1 if added[best] == 0 else 2]


def _repatterned(answer: _Answer) -> Iterator[_Answer]:
    """The answer itself, and again with each other pattern of each of its figures."""
    yield answer
    for position, pattern in product(range(len(answer.figures)), PATTERNS):
        figures = list(answer.figures)
        placed = figures[position]
        if pattern != placed.figure.pattern:
            figures[position] = replace(placed, figure=replace(placed.figure, pattern=pattern))
            drawn = compose(answer.background, answer.style, figures)
            yield replace(answer, figures=tuple(figures), drawn=drawn)


def _best(picture: Field, answers: Iterator[_Answer]) -> _Answer:
    return min(answers, key=lambda answer: _misfit(picture - answer.drawn))


def _misfit(rest: Field) -> float:
    """Mean squared error, in which errors that keep their sign over an area count extra.

    An autoencoder that has lost the dots of a dark figure keeps their mean colour.
    """
    sums = np.pad(rest, ((AREA, 0), (AREA, 0), (0, 0))).cumsum(axis=0).cumsum(axis=1)
    means = sums[AREA:, AREA:] - sums[:-AREA, AREA:] - sums[AREA:, :-AREA] + sums[:-AREA, :-AREA]
    return float(np.square(rest).mean() + LASTING * np.square(means / AREA**2).mean())


def _patches(views: Field) -> Field:
    """Windows (..., 3, P, P) as the rows of a matrix, (N·3, P·P)."""
    return np.ascontiguousarray(views).reshape(-1, views.shape[-1] ** 2)


@lru_cache(maxsize=1)
def _spots() -> _Spots:
    listed = [
        [
            grid.ravel()
            for grid in np.meshgrid(
                [i], CELLS[size], CELLS[size], range(len(SHAPES)), indexing="ij"
            )
        ]
        for i, size in enumerate(SIZES)
    ]
    size, row, column, shape = (np.concatenate(part) for part in zip(*listed, strict=True))
    radius = np.array([RADIUS[name] for name in SIZES])[size]
    apart = radius[:, None] + radius + GAP
    clear = (PITCH * abs(row[:, None] - row) >= apart) | (
        PITCH * abs(column[:, None] - column) >= apart
    )
    return _Spots(
        size=size,
        row=row,
        column=column,
        shape=shape,
        compatible=clear & (shape[:, None] != shape),
    )
