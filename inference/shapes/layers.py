"""Every figure of the world drawn once, as layers that can be laid anywhere: the reader's stock.

A figure's pixels are a mixture of three colours, and only the mixture depends on its shape, size,
pattern and style (`render.py` draws the same thing, colours and all):

    pixel = behind · background + paint · colour + ink · INK

`stock` holds these shares for every figure, with what a least-squares search needs of them, and
`compose` puts figures back together. At whole cells `compose` equals `render`; it can also lay a
figure a pixel off the grid, where a model may have drawn it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inference.shapes.render import (
    CONTOUR,
    INK,
    SHADE,
    SHADOW_OFFSET,
    Field,
    colour,
    coverage,
    distance,
    tone,
)
from inference.shapes.scene import CANVAS, CELLS, PITCH, Figure
from inference.shapes.vocabulary import COLOURS, PATTERNS, SHAPES, STYLES

REACH: Final = {"small": (10, 13), "large": (15, 18)}
"""Pixels that a figure of that size covers before and after its centre, its shadow included."""
PAD: Final = 8
"""Pixels by which a canvas is padded, so that every window of every figure lies on it."""
PALETTE: Final = np.stack([colour(name) for name in COLOURS])
"""All colours as (10, 3) float32 in [0, 1], in the order of `COLOURS`."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What one shape and size look like, whatever their colours; (P, P) windows of `REACH`.

    Attributes:
        inside: Share of each pixel that the figure covers.
        contour: Share of each pixel that the contour of the outlined style covers.
        shadow: Share of each pixel that the shadow covers.
    """

    inside: Field
    contour: Field
    shadow: Field


@dataclass(frozen=True, kw_only=True)
class Stock:
    """All figures of one size, ready to be matched; T = templates, P = window side.

    Attributes:
        templates: (P·P, T) shares, one column each. `behind`, `paint` and `ink` index them.
        behind: (styles, shapes) columns that hold the background's share, less 1.
        paint: (styles, shapes, patterns) columns that hold the share of the figure's colour.
        ink: (styles, shapes) columns that hold the contour's share.
        products: (styles, shapes, patterns, 3, 3) sums of products of behind, paint and ink.
    """

    templates: Field
    behind: NDArray[np.intp]
    paint: NDArray[np.intp]
    ink: NDArray[np.intp]
    products: Field


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A figure, and how it is drawn where that is not quite as `render` does.

    Attributes:
        figure: The figure.
        right, down: Pixels by which it stands off its cell.
        phase: Pixels (right, down) by which its pattern lies off its centre.
    """

    figure: Figure
    right: int = 0
    down: int = 0
    phase: tuple[int, int] = (0, 0)


@lru_cache(maxsize=len(SHAPES) * len(REACH))
def outline(shape: str, size: str) -> Outline:
    """Draw one shape at one size."""
    middle = CANVAS // PITCH // 2
    figure = Figure(
        shape=shape,
        colour=next(iter(COLOURS)),
        pattern=PATTERNS[0],
        size=size,
        column=middle,
        row=middle,
    )
    before, after = REACH[size]
    window = slice(PITCH * middle - before, PITCH * middle + after)
    field = distance(figure)[window, window]
    inside = coverage(field)
    return Outline(
        inside=inside,
        contour=inside * coverage(-field - CONTOUR),
        shadow=coverage(distance(figure, offset=SHADOW_OFFSET)[window, window]),
    )


@cache
def shade(pattern: str, size: str, phase: tuple[int, int] = (0, 0)) -> Field:
    """Factor from a figure's colour to the tone at each pixel of its window: (P, P)."""
    before, after = REACH[size]
    offsets = np.arange(-before, after, dtype=np.float32) + np.float32(0.5)
    tones = tone(pattern, offsets[None, :] - phase[0], offsets[:, None] - phase[1])
    return np.asarray(1 - (1 - SHADE) * tones, dtype=np.float32)


@lru_cache(maxsize=len(REACH))
def stock(size: str) -> Stock:
    """All figures of one size as templates."""
    columns: list[Field] = []

    def column(share: Field) -> int:
        columns.append(share.ravel())
        return len(columns) - 1

    behind = np.zeros((len(STYLES), len(SHAPES)), dtype=np.intp)
    ink = np.zeros_like(behind)
    paint = np.zeros((len(STYLES), len(SHAPES), len(PATTERNS)), dtype=np.intp)
    for j, shape in enumerate(SHAPES):
        drawn = outline(shape, size)
        open_, bare = 1 - drawn.inside, 1 - drawn.contour
        filled = [column(drawn.inside * shade(pattern, size)) for pattern in PATTERNS]
        framed = [column(drawn.inside * shade(pattern, size) * bare) for pattern in PATTERNS]
        nothing = column(np.zeros_like(drawn.inside))
        for i, style in enumerate(STYLES):
            below = open_ * bare if style == "outlined" else open_
            if style == "shadowed":
                below = open_ * (1 - (1 - SHADE) * drawn.shadow)
            behind[i, j] = column(below - 1)
            paint[i, j] = framed if style == "outlined" else filled
            ink[i, j] = column(drawn.contour) if style == "outlined" else nothing
    templates = np.stack(columns, axis=1)
    gram = templates.T @ templates
    parts = np.stack(
        np.broadcast_arrays(behind[..., None], paint, ink[..., None]), axis=-1
    )  # (styles, shapes, patterns, 3)
    return Stock(
        templates=templates,
        behind=behind,
        paint=paint,
        ink=ink,
        products=gram[parts[..., :, None], parts[..., None, :]],
    )


@lru_cache(maxsize=len(REACH) * len(COLOURS))
def energy(size: str, background: str) -> Field:
    """Squared distance between each figure and a bare background.

    Returns:
        (styles, shapes, patterns, colours), summed over a window's pixels and channels.
    """
    ground = colour(background)
    triples = np.stack(
        np.broadcast_arrays(ground[None, :], PALETTE, INK[None, :]), axis=1
    )  # (colours, 3 parts, rgb)
    inner = np.einsum("kpc,kqc->kpq", triples, triples)
    products = stock(size).products
    energies: Field = np.einsum("...pq,kpq->...k", products, inner)
    return energies


def compose(background: str, style: str, figures: Sequence[Placed]) -> Field:
    """Lay figures on a background: what `render` draws, at any whole pixel.

    Returns:
        (64, 64, 3) float32 in [0, 1].
    """
    side = CANVAS + 2 * PAD
    ground = colour(background)
    image = np.broadcast_to(ground, (side, side, 3)).copy()
    if style == "shadowed":
        for placed in figures:
            part = image[window(placed)]
            part += _outline(placed).shadow[..., None] * (ground * SHADE - part)
    for placed in figures:
        figure = placed.figure
        drawn, part = _outline(placed), image[window(placed)]
        paint = shade(figure.pattern, figure.size, placed.phase)[..., None] * colour(figure.colour)
        part += drawn.inside[..., None] * (paint - part)
        if style == "outlined":
            part += drawn.contour[..., None] * (INK - part)
    return image[PAD:-PAD, PAD:-PAD]


def windows(padded: Field, size: str, right: int = 0, down: int = 0) -> Field:
    """The windows of every cell at which a figure of `size` can stand, moved by a few pixels.

    Args:
        padded: (64 + 2·PAD, 64 + 2·PAD, 3).
        size: A name of `SIZES`.
        right, down: Pixels, at most PAD - 6 either way.

    Returns:
        (rows, columns, 3, P, P), a view.
    """
    before, after = REACH[size]
    views = np.lib.stride_tricks.sliding_window_view(padded, (before + after,) * 2, axis=(0, 1))
    first = PITCH * CELLS[size].start - before + PAD
    last = PITCH * (CELLS[size].stop - 1) - before + PAD + 1
    return views[first + down : last + down : PITCH, first + right : last + right : PITCH]


def patches(views: Field) -> Field:
    """Windows (..., 3, P, P) as the rows of a matrix, (N·3, P·P)."""
    return np.ascontiguousarray(views).reshape(-1, views.shape[-1] ** 2)


def window(placed: Placed) -> tuple[slice, slice]:
    """Where a figure's window lies on the padded canvas."""
    figure = placed.figure
    before, after = REACH[figure.size]
    across = PITCH * figure.column + placed.right + PAD
    along = PITCH * figure.row + placed.down + PAD
    return slice(along - before, along + after), slice(across - before, across + after)


def interior(placed: Placed, style: str) -> NDArray[np.bool_]:
    """Pixels of a figure's window that show its pattern and nothing else: (P, P)."""
    drawn = _outline(placed)
    whole = drawn.inside > 0.99
    return whole & (drawn.contour < 0.01) if style == "outlined" else whole


def _outline(placed: Placed) -> Outline:
    return outline(placed.figure.shape, placed.figure.size)
