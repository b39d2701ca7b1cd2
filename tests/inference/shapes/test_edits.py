"""Edits of captions and of scenes agree, and can be undone."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from inference.shapes.captions import Description, describe, describes
from inference.shapes.edits import (
    EDIT_TYPES,
    Edit,
    EditType,
    Inapplicable,
    edit_description,
    edit_scene,
    inverse,
    propose,
)
from inference.shapes.scene import Figure, Scene, is_held_out, random_scene

HEART = Figure(shape="heart", colour="red", pattern="solid", size="small", column=4, row=4)
STAR = Figure(shape="star", colour="white", pattern="dotted", size="small", column=11, row=11)
ONE = Scene(figures=(HEART,), background="blue")
TWO = Scene(figures=(HEART, STAR), background="blue")


def proposals(kind: EditType, count: int = 60) -> Iterator[tuple[Scene, Description, Edit]]:
    rng = random.Random(f"edits {kind}")
    while count:
        scene = random_scene(rng)
        said = describe(scene, rng, detail=1.0)
        edit = propose(said, kind, rng)
        if edit is not None:
            count -= 1
            yield scene, said, edit


@pytest.mark.parametrize("kind", EDIT_TYPES)
def test_the_edited_caption_describes_the_edited_scene(kind: EditType) -> None:
    done = 0
    for before, said, edit in proposals(kind):
        try:
            after = edit_scene(edit, before)
        except Inapplicable:  # no room
            continue
        done += 1
        assert after.canonical() != before.canonical()
        assert not is_held_out(after)
        if kind != "resize":  # a figure that grows at the rim may leave its place
            assert describes(edit_description(edit, said), after)
    assert done > 20


@pytest.mark.parametrize("kind", EDIT_TYPES)
def test_the_inverse_brings_the_caption_back(kind: EditType) -> None:
    for _, said, edit in proposals(kind):
        after = edit_description(edit, said)
        back = edit_description(inverse(edit, said), after)
        assert set(back.figures) == set(said.figures)
        assert (back.background, back.style) == (said.background, said.style)


@pytest.mark.parametrize("kind", EDIT_TYPES)
def test_all_but_the_edited_thing_stays(kind: EditType) -> None:
    for before, _, edit in proposals(kind):
        try:
            after = edit_scene(edit, before)
        except Inapplicable:
            continue
        kept = [figure for figure in before.figures if figure.shape != edit.target]
        assert set(kept) <= set(after.figures)
        if kind != "background":
            assert after.background == before.background
        if kind != "style":
            assert after.style == before.style


def test_a_figure_that_grows_at_the_rim_moves_inwards() -> None:
    rim = replace(ONE, figures=(replace(HEART, column=3, row=13),))
    (grown,) = edit_scene(Edit(kind="resize", target="heart", value="large"), rim).figures
    assert (grown.column, grown.row) == (4, 12)


@pytest.mark.parametrize(
    ("edit", "scene", "message"),
    [
        (Edit(kind="recolour", target="moon", value="pink"), TWO, "no moon here, only heart and"),
        (Edit(kind="recolour", target="heart", value="red"), TWO, "changes nothing"),
        (Edit(kind="recolour", target="heart", value="blue"), TWO, "would vanish"),
        (Edit(kind="background", value="red"), TWO, "would vanish"),
        (Edit(kind="reshape", target="heart", value="star"), TWO, "the same shape"),
        (Edit(kind="remove", target="heart"), ONE, "the only figure"),
        (Edit(kind="move", target="heart", value="in the bottom right"), TWO, "overlap"),
    ],
)
def test_edits_that_make_no_sense_are_refused(edit: Edit, scene: Scene, message: str) -> None:
    with pytest.raises(Inapplicable, match=message):
        edit_scene(edit, scene)


def test_nothing_is_added_to_two_figures() -> None:
    rng = random.Random(0)
    edit = propose(describe(ONE, rng), "add", rng)
    assert edit is not None
    with pytest.raises(Inapplicable, match="two figures already"):
        edit_scene(edit, TWO)
    assert propose(describe(TWO, rng), "add", rng) is None
    assert propose(describe(ONE, rng), "remove", rng) is None
