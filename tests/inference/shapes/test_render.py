"""Drawing: what a scene says is what its picture shows."""

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from inference.shapes.near_misses import any_scene
from inference.shapes.render import INK, SHADE, colour, coverage, distance, render
from inference.shapes.scene import PITCH, Figure, Scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, SHAPES, SIZES, STYLES

SQUARE = Figure(shape="square", colour="red", pattern="solid", size="large", column=8, row=8)
SCENE = Scene(figures=(SQUARE,), background="white")


@pytest.mark.parametrize("size", [32, 64, 100, 256])
def test_a_picture_has_the_size_asked_for(size: int) -> None:
    picture = render(SCENE, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_figure_and_background_have_their_colours() -> None:
    picture = render(SCENE)
    np.testing.assert_allclose(picture[32, 32], colour("red"))
    np.testing.assert_allclose(picture[1, 1], colour("white"))


def test_the_order_of_figures_does_not_show() -> None:
    rng = random.Random(0)
    for _ in range(30):
        scene = any_scene(rng, figures=2)
        np.testing.assert_array_equal(
            render(scene), render(replace(scene, figures=scene.figures[::-1]))
        )


def test_a_large_picture_shrinks_to_the_small_one() -> None:
    rng = random.Random(1)
    for _ in range(20):
        scene = any_scene(rng)
        small = render(scene, 256).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
        assert np.abs(small - render(scene)).mean() < 0.01


def test_a_cell_is_four_pixels() -> None:
    moved = replace(SCENE, figures=(replace(SQUARE, column=9, row=7),))
    np.testing.assert_array_equal(
        render(moved), np.roll(render(SCENE), (-PITCH, PITCH), axis=(0, 1))
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_figure_keeps_to_its_bounding_box(shape: str, size: str) -> None:
    figure = replace(SQUARE, shape=shape, size=size)
    rows, columns = np.nonzero(coverage(distance(figure)) > 0.5)
    for pixels in (rows, columns):
        assert pixels.min() >= 32 - figure.radius - 1
        assert pixels.max() <= 32 + figure.radius
    assert len(rows) > 0.25 * figure.radius**2


def test_no_two_looks_are_alike() -> None:
    looks = [
        Scene(
            figures=(replace(SQUARE, shape=shape, pattern=pattern),),
            background="white",
            style=style,
        )
        for shape, pattern, style in product(SHAPES, PATTERNS, STYLES)
    ]
    pictures = np.stack([render(look)[16:52, 16:52].ravel() for look in looks])
    for position, picture in enumerate(pictures):
        distances = np.abs(pictures - picture).mean(axis=1)
        assert np.delete(distances, position).min() > 0.004


def test_colours_are_told_apart() -> None:
    values = np.stack([colour(name) for name in COLOURS])
    distances = np.linalg.norm(values[:, None] - values[None], axis=-1)
    assert distances[~np.eye(len(values), dtype=bool)].min() > 0.35


def test_styles_add_a_contour_or_a_shadow() -> None:
    edge = 32 - round(0.84 * 14)
    outlined = render(replace(SCENE, style="outlined"))
    np.testing.assert_allclose(outlined[32, edge], INK, atol=0.2)
    shadowed = render(replace(SCENE, style="shadowed"))
    behind = 32 + round(0.84 * 14) + 1
    np.testing.assert_allclose(shadowed[36, behind], colour("white") * SHADE, atol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_centroid_of_a_shape_is_its_centre(shape: str) -> None:
    figure = replace(SQUARE, shape=shape)
    inside = coverage(distance(figure, 512))
    rows, columns = np.indices(inside.shape)
    for positions in (rows, columns):
        centroid = (inside * (positions + 0.5)).sum() / inside.sum()
        assert centroid == pytest.approx(256, abs=0.02 * 8 * figure.radius)
