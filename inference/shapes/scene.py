"""Scenes of one or two figures on a grid: what a picture of the shapes world *is*.

Positions and sizes lie on a grid, so "the rest is unchanged" is an exact statement. The canvas is
64 units wide; a figure's centre is at (4·column, 4·row), which for a 64-pixel render through an
autoencoder that divides by 4 is a whole number of latent cells.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, Literal

from inference.shapes.vocabulary import (
    COLOURS,
    HELD_OUT_COMBINATIONS,
    PATTERNS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    TRAIN_COLOURS,
    TRAIN_PATTERNS,
    TRAIN_SHAPES,
)

Combinations = Literal["train", "held_out", "all"]
"""Which pairs of shape and colour may appear: those trained on, those held out, or both."""

CANVAS: Final = 64
PITCH: Final = 4
RADIUS: Final = {"small": 9, "large": 14}
CELLS: Final = {"small": range(3, 14), "large": range(4, 13)}
"""Columns and rows at which a figure of that size stays inside the canvas, its shadow included."""
GAP: Final = 3
"""Least distance in units between the bounding boxes of two figures."""
ANCHORS: Final = (5, 8, 11)
"""Where an edit puts a figure: left, middle or right, and the same from top to bottom."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One object of a scene. `column` and `row` give its centre in cells of four units."""

    shape: str
    colour: str
    pattern: str
    size: str
    column: int
    row: int

    def __post_init__(self) -> None:
        _known("shape", self.shape, SHAPES)
        _known("colour", self.colour, tuple(COLOURS))
        _known("pattern", self.pattern, PATTERNS)
        _known("size", self.size, SIZES)
        cells = CELLS[self.size]
        if self.column not in cells or self.row not in cells:
            raise ValueError(
                f"a {self.size} figure's column and row must lie in {cells.start}..{cells.stop - 1}"
                f", found ({self.column}, {self.row})"
            )

    @property
    def place(self) -> str:
        """The named region of the canvas that holds the centre, one of `PLACES`."""
        return PLACES[3 * _third(self.row) + _third(self.column)]

    @property
    def radius(self) -> int:
        """Half the side of the bounding box, in canvas units."""
        return RADIUS[self.size]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One or two figures of different shape on a background, drawn in one style."""

    figures: tuple[Figure, ...]
    background: str
    style: str = "flat"

    def __post_init__(self) -> None:
        _known("background", self.background, tuple(COLOURS))
        _known("style", self.style, STYLES)
        if not 1 <= len(self.figures) <= 2:
            raise ValueError(f"a scene has one or two figures, found {len(self.figures)}")
        if any(figure.colour == self.background for figure in self.figures):
            raise ValueError(
                f"a {self.background} figure cannot be seen on a {self.background} background"
            )
        if len(self.figures) == 2:
            first, second = self.figures
            if first.shape == second.shape:
                raise ValueError(
                    f"two figures of one scene must differ in shape, found two {first.shape}s"
                )
            if overlap(first, second):
                raise ValueError("the two figures overlap")

    def canonical(self) -> "Scene":
        """The same with the figures in a fixed order, so that equal pictures compare equal."""
        return replace(
            self, figures=tuple(sorted(self.figures, key=lambda f: SHAPES.index(f.shape)))
        )


def overlap(first: Figure, second: Figure) -> bool:
    """Whether two figures come closer than `GAP` units, measured on their bounding boxes."""
    apart = first.radius + second.radius + GAP
    return (
        PITCH * abs(first.column - second.column) < apart
        and PITCH * abs(first.row - second.row) < apart
    )


def place_cells(place: str, size: str) -> Iterator[tuple[int, int]]:
    """All (column, row) cells of a named region that a figure of `size` can stand on."""
    _known("place", place, PLACES)
    row_third, column_third = divmod(PLACES.index(place), 3)
    for column, row in product(CELLS[size], CELLS[size]):
        if _third(column) == column_third and _third(row) == row_third:
            yield column, row


def anchor(place: str) -> tuple[int, int]:
    """The (column, row) at which an edit puts a figure that it moves or adds to `place`."""
    _known("place", place, PLACES)
    row_third, column_third = divmod(PLACES.index(place), 3)
    return ANCHORS[column_third], ANCHORS[row_third]


def random_scene(
    rng: random.Random,
    *,
    figures: int | None = None,
    shapes: Sequence[str] = TRAIN_SHAPES,
    colours: Sequence[str] = TRAIN_COLOURS,
    patterns: Sequence[str] = TRAIN_PATTERNS,
    combinations: Combinations = "train",
) -> Scene:
    """Draw a scene.

    Args:
        rng: The only source of randomness.
        figures: 1 or 2; by default one in six scenes of ten.
        shapes, colours, patterns: What to choose from; by default what models may train on.
        combinations: Which (shape, colour) pairs may appear: `"train"` leaves the held-out ones
            out, `"held_out"` gives every figure one of them, `"all"` does not look.

    Returns:
        A valid scene. Half of all figures are solid, and half of all scenes are flat.
    """
    count = figures if figures is not None else (1 if rng.random() < 0.6 else 2)
    while True:
        kinds = rng.sample(list(shapes), count)
        background = rng.choice(list(colours))
        drawn = []
        for shape in kinds:
            size = rng.choice(SIZES)
            drawn.append(
                Figure(
                    shape=shape,
                    colour=rng.choice([name for name in colours if name != background]),
                    pattern="solid" if rng.random() < 0.5 else rng.choice(list(patterns)),
                    size=size,
                    column=rng.choice(CELLS[size]),
                    row=rng.choice(CELLS[size]),
                )
            )
        style = "flat" if rng.random() < 0.5 else rng.choice(STYLES)
        if count == 2 and overlap(drawn[0], drawn[1]):
            continue
        if not all(_combination_allowed(figure, combinations) for figure in drawn):
            continue
        return Scene(figures=tuple(drawn), background=background, style=style)


def is_held_out(scene: Scene) -> bool:
    """Whether the scene shows anything that the models must not have seen in training."""
    return scene.background not in TRAIN_COLOURS or any(
        figure.shape not in TRAIN_SHAPES
        or figure.colour not in TRAIN_COLOURS
        or figure.pattern not in TRAIN_PATTERNS
        or (figure.shape, figure.colour) in HELD_OUT_COMBINATIONS
        for figure in scene.figures
    )


def _combination_allowed(figure: Figure, combinations: Combinations) -> bool:
    if combinations == "all":
        return True
    return ((figure.shape, figure.colour) in HELD_OUT_COMBINATIONS) == (combinations == "held_out")


def _third(cell: int) -> int:
    return 0 if cell <= 6 else 1 if cell <= 9 else 2


def _known(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(choices)}, found {value!r}")
