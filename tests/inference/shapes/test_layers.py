"""Layers: put together they are the renderer's picture, and their energies are its distances."""

import random

import numpy as np
import pytest

from inference.shapes.layers import PAD, Placed, compose, energy, windows
from inference.shapes.near_misses import any_scene
from inference.shapes.render import colour, render
from inference.shapes.scene import PITCH, Figure, Scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, SHAPES, SIZES, STYLES


def test_composed_layers_are_the_rendered_picture() -> None:
    rng = random.Random(0)
    for _ in range(100):
        scene = any_scene(rng)
        composed = compose(scene.background, scene.style, [Placed(figure=f) for f in scene.figures])
        np.testing.assert_array_equal(composed, render(scene))


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, -1), (-1, 1)])
def test_a_figure_can_stand_off_its_cell(right: int, down: int) -> None:
    figure = Figure(shape="star", colour="pink", pattern="zigzag", size="large", column=8, row=8)
    on_grid = compose("blue", "shadowed", [Placed(figure=figure)])
    moved = compose("blue", "shadowed", [Placed(figure=figure, right=right, down=down)])
    np.testing.assert_array_equal(moved, np.roll(on_grid, (down, right), axis=(0, 1)))


@pytest.mark.parametrize("size", SIZES)
def test_energies_are_squared_distances_to_the_background(size: str) -> None:
    rng = random.Random(1)
    for _ in range(40):
        style, shape, pattern = rng.choice(STYLES), rng.choice(SHAPES), rng.choice(PATTERNS)
        background, paint = rng.sample(tuple(COLOURS), 2)
        figure = Figure(shape=shape, colour=paint, pattern=pattern, size=size, column=8, row=8)
        picture = render(Scene(figures=(figure,), background=background, style=style))
        expected = np.square(picture - colour(background)).sum()
        found = energy(size, background)[
            STYLES.index(style),
            SHAPES.index(shape),
            PATTERNS.index(pattern),
            tuple(COLOURS).index(paint),
        ]
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_windows_are_centred_on_cells(size: str) -> None:
    picture = np.zeros((64 + 2 * PAD, 64 + 2 * PAD, 3), dtype=np.float32)
    centre = PAD + PITCH * 8
    picture[centre, centre + 1] = 1
    view = windows(picture, size)
    middle = view.shape[0] // 2
    rows, columns = np.nonzero(view[middle, middle, 0])
    rows_off, columns_off = np.nonzero(windows(picture, size, right=1)[middle, middle, 0])
    assert (rows, columns) == (rows_off, columns_off + 1)
    assert columns == rows + 1
