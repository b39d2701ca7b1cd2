"""Pictures that are almost those of a scene: what a reader must not be fooled by."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Final

from inference.shapes.render import Field, render
from inference.shapes.scene import Scene, random_scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, SHAPES

GHOST: Final = 0.3
"""How much of a ghost is there."""

NearMiss = tuple[Scene, Field]
"""A scene, and a picture (64, 64, 3) in [0, 1] that is almost one of it."""


def any_scene(rng: random.Random, *, figures: int | None = None) -> Scene:
    """Draw a scene from the whole vocabulary, held-out words included."""
    return random_scene(
        rng,
        figures=figures,
        shapes=SHAPES,
        colours=tuple(COLOURS),
        patterns=PATTERNS,
        combinations="all",
    )


def one_cell_off(rng: random.Random) -> NearMiss:
    """A figure stands one cell from where it stood."""
    while True:
        scene = any_scene(rng)
        moved = list(_moved(scene))
        if moved:
            return scene, render(rng.choice(moved))


def ghost(rng: random.Random) -> NearMiss:
    """A second figure shows faintly."""
    both = any_scene(rng, figures=2)
    scene = replace(both, figures=both.figures[:1])
    return scene, _between(scene, both, GHOST)


def half_recolour(rng: random.Random) -> NearMiss:
    """A figure's colour has gone half of the way to another."""
    scene = any_scene(rng)
    position = rng.randrange(len(scene.figures))
    old = scene.figures[position].colour
    other = rng.choice([name for name in COLOURS if name not in (old, scene.background)])
    figures = list(scene.figures)
    figures[position] = replace(figures[position], colour=other)
    return scene, _between(scene, replace(scene, figures=tuple(figures)), 0.5)


NEAR_MISSES: Final[dict[str, Callable[[random.Random], NearMiss]]] = {
    "one cell off": one_cell_off,
    "ghost of a second figure": ghost,
    "half a recolour": half_recolour,
}


def _moved(scene: Scene) -> Iterator[Scene]:
    """Every scene in which one figure stands on a neighbouring cell."""
    for position, right, down in product(range(len(scene.figures)), (-1, 0, 1), (-1, 0, 1)):
        figures = list(scene.figures)
        figure = figures[position]
        try:
            figures[position] = replace(figure, column=figure.column + right, row=figure.row + down)
            moved = replace(scene, figures=tuple(figures))
        except ValueError:  # off the canvas, or too close to the other figure
            continue
        if moved != scene:
            yield moved


def _between(first: Scene, second: Scene, share: float) -> Field:
    """A blend of two pictures: `share` of the second."""
    return (1 - share) * render(first) + share * render(second)
