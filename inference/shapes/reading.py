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

from inference.shapes.confidence import (
    ERROR_LIMIT,
    RESIDUAL_LIMIT,
    TEXTURE_LIMIT,
    residual,
    texture,
)
from inference.shapes.layers import (
    PAD,
    PALETTE,
    Placed,
    compose,
    energy,
    interior,
    patches,
    stock,
    window,
    windows,
)
from inference.shapes.render import INK, Field, colour
from inference.shapes.scene import CANVAS, CELLS, GAP, PITCH, RADIUS, Figure, Scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, SHAPES, SIZES, STYLES

CLEAR: Final = 0.001
"""Mean squared error below which the search ends on the grid, if the answer is sure."""
AREA: Final = 7
"""Side in pixels of the area over which the search averages errors."""
LASTING: Final = 8
"""How much more such a mean error counts than the error of a pixel."""
PHASES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "solid": ((0, 0),),
    "striped": ((0, 0), (0, 4)),
    "dotted": tuple((right, down) for right in (0, 2, 4) for down in (0, 2, 4)),
    "checkered": ((0, 0), (4, 0)),
    "zigzag": ((0, 0), (0, 4), (4, 0), (4, 4)),
}
"""Pixels (right, down) by which a pattern may lie off its figure's centre.

Models err so: they draw a pattern as it lies in a figure that stands some cells away.
"""
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
        residual: The largest error over the area of a figure; see `confidence.residual`.
        texture: The largest texture unexplained within a figure; see `confidence.texture`.
        error: Mean squared error of the scene drawn again, per channel.
        guess: The likeliest scene, sure or not.
    """

    scene: Scene | None
    residual: float
    texture: float
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
    reading = _reading(picture, background, _answers(background, fit))
    if reading.error > CLEAR or reading.scene is None:
        loosened = _loosened(fit, difference, background)
        reading = _reading(picture, background, _answers(background, loosened))
    return reading


def _reading(picture: Field, background: str, answers: Iterator[_Answer]) -> Reading:
    """The best of some answers, looked at more closely, and whether one may be sure of it."""
    answer = _best(picture, _repatterned(_best(picture, answers)))
    answer, rough = _rephased(picture, answer)
    error, rest = answer.error(picture), residual(picture, answer.drawn)
    guess = Scene(
        figures=tuple(placed.figure for placed in answer.figures),
        background=background,
        style=answer.style,
    )
    sure = rest <= RESIDUAL_LIMIT and rough <= TEXTURE_LIMIT and error <= ERROR_LIMIT
    return Reading(
        scene=guess if sure else None, residual=rest, texture=rough, error=error, guess=guess
    )


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
        gain, look = _match(patches(windows(difference, size)), size, background)
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
        gains, looks = _match(patches(moved), SIZES[size], background)
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
        yield _drawn(background, style, figures)


def _drawn(background: str, style: str, figures: Sequence[Placed]) -> _Answer:
    drawn = compose(background, style, figures)
    return _Answer(background=background, style=style, figures=tuple(figures), drawn=drawn)


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
            yield _drawn(answer.background, answer.style, figures)


def _best(picture: Field, answers: Iterator[_Answer]) -> _Answer:
    return min(answers, key=lambda answer: _misfit(picture - answer.drawn))


def _misfit(rest: Field) -> float:
    """Mean squared error, in which errors that keep their sign over an area count extra.

    An autoencoder that has lost the dots of a dark figure keeps their mean colour.
    """
    sums = np.pad(rest, ((AREA, 0), (AREA, 0), (0, 0))).cumsum(axis=0).cumsum(axis=1)
    means = sums[AREA:, AREA:] - sums[:-AREA, AREA:] - sums[AREA:, :-AREA] + sums[:-AREA, :-AREA]
    return float(np.square(rest).mean() + LASTING * np.square(means / AREA**2).mean())


def _rephased(picture: Field, answer: _Answer) -> tuple[_Answer, float]:
    """Where a figure's pattern leaves much of its texture unexplained, try all in other phases.

    Returns:
        The answer, and the largest texture that it leaves unexplained.
    """
    padded = np.pad(picture, ((PAD, PAD), (PAD, PAD), (0, 0)))
    figures, textures = list(answer.figures), []
    for position, placed in enumerate(figures):
        within = interior(placed, answer.style)
        pixels = padded[window(placed)][within]
        left = texture(pixels, within, placed)
        if left > TEXTURE_LIMIT / 3:
            other = min(_phases(placed), key=lambda other: texture(pixels, within, other))
            if texture(pixels, within, other) < left / 3:
                figures[position] = other
                left = texture(pixels, within, other)
        textures.append(left)
    if figures != list(answer.figures):
        answer = _drawn(answer.background, answer.style, figures)
    return answer, max(textures)


def _phases(placed: Placed) -> Iterator[Placed]:
    """A figure with every pattern in every phase."""
    for pattern in PATTERNS:
        for phase in PHASES[pattern]:
            yield replace(placed, figure=replace(placed.figure, pattern=pattern), phase=phase)


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
