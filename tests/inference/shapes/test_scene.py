"""Scenes: the grid, the hold-outs, and what is no scene."""

import random
from dataclasses import replace

import pytest

from inference.shapes.scene import (
    CELLS,
    Figure,
    Scene,
    anchor,
    is_held_out,
    overlap,
    place_cells,
    random_scene,
)
from inference.shapes.vocabulary import (
    COLOURS,
    HELD_OUT_COLOURS,
    HELD_OUT_COMBINATIONS,
    HELD_OUT_PATTERNS,
    HELD_OUT_SHAPES,
    PATTERNS,
    PLACES,
    SHAPES,
    SIZES,
    TRAIN_COLOURS,
    TRAIN_PATTERNS,
    TRAIN_SHAPES,
)

HEART = Figure(shape="heart", colour="red", pattern="solid", size="small", column=4, row=4)
STAR = Figure(shape="star", colour="white", pattern="dotted", size="large", column=11, row=11)


@pytest.mark.parametrize(
    ("every", "train", "held_out"),
    [
        (SHAPES, TRAIN_SHAPES, HELD_OUT_SHAPES),
        (tuple(COLOURS), TRAIN_COLOURS, HELD_OUT_COLOURS),
        (PATTERNS, TRAIN_PATTERNS, HELD_OUT_PATTERNS),
    ],
)
def test_words_are_for_training_or_held_out(
    every: tuple[str, ...], train: tuple[str, ...], held_out: tuple[str, ...]
) -> None:
    assert sorted(train + held_out) == sorted(every)
    assert train
    assert held_out


def test_held_out_combinations_are_made_of_training_words() -> None:
    shapes, colours = zip(*HELD_OUT_COMBINATIONS, strict=True)
    assert set(shapes) <= set(TRAIN_SHAPES)
    assert set(colours) <= set(TRAIN_COLOURS)


def test_scenes_for_training_show_nothing_held_out() -> None:
    rng = random.Random(0)
    assert not any(is_held_out(random_scene(rng)) for _ in range(500))


def test_held_out_combinations_can_be_asked_for() -> None:
    rng = random.Random(0)
    for _ in range(100):
        scene = random_scene(rng, combinations="held_out")
        assert all((f.shape, f.colour) in HELD_OUT_COMBINATIONS for f in scene.figures)
        assert is_held_out(scene)


def test_random_scenes_are_a_function_of_the_generator() -> None:
    assert random_scene(random.Random(7)) == random_scene(random.Random(7))
    assert {len(random_scene(random.Random(i)).figures) for i in range(20)} == {1, 2}
    assert all(len(random_scene(random.Random(i), figures=2).figures) == 2 for i in range(20))


@pytest.mark.parametrize("size", SIZES)
def test_the_nine_places_share_out_all_cells(size: str) -> None:
    cells = [cell for place in PLACES for cell in place_cells(place, size)]
    assert len(cells) == len(set(cells)) == len(CELLS[size]) ** 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", PLACES)
def test_an_anchor_lies_in_its_place(place: str, size: str) -> None:
    column, row = anchor(place)
    assert replace(HEART, size=size, column=column, row=row).place == place
    assert (column, row) in list(place_cells(place, size))


def test_overlap_has_no_order() -> None:
    rng = random.Random(3)
    for _ in range(200):
        first = random_scene(rng, figures=1).figures[0]
        second = random_scene(rng, figures=1).figures[0]
        assert overlap(first, second) == overlap(second, first)
    assert overlap(HEART, HEART)
    assert not overlap(HEART, STAR)


def test_canonical_forgets_the_order_of_figures() -> None:
    first = Scene(figures=(HEART, STAR), background="blue")
    second = Scene(figures=(STAR, HEART), background="blue")
    assert first != second
    assert first.canonical() == second.canonical() == first.canonical().canonical()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "blob"}, "shape must be one of circle, .*found 'blob'"),
        ({"colour": "grey"}, "colour must be one of .*found 'grey'"),
        ({"pattern": "plaid"}, "pattern must be one of .*found 'plaid'"),
        ({"size": "huge"}, "size must be one of small, large, found 'huge'"),
        ({"column": 2}, r"column and row must lie in 3\.\.13, found \(2, 4\)"),
        ({"size": "large", "row": 13}, r"must lie in 4\.\.12, found \(4, 13\)"),
    ],
)
def test_a_figure_off_the_world_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(HEART, **change)


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ({"figures": ()}, "one or two figures, found 0"),
        ({"background": "red"}, "a red figure cannot be seen on a red background"),
        ({"style": "cubist"}, "style must be one of .*found 'cubist'"),
        ({"figures": (HEART, replace(STAR, shape="heart"))}, "differ in shape, found two hearts"),
        ({"figures": (HEART, replace(STAR, column=7, row=7))}, "the two figures overlap"),
    ],
)
def test_an_impossible_scene_is_refused(scene: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scene(**{"figures": (HEART,), "background": "blue", **scene})  # type: ignore[arg-type]
