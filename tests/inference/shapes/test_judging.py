"""Judging: what an instruction demands, what it leaves open, and what must stay."""

import random
from dataclasses import replace

import numpy as np
import pytest

from inference.shapes.captions import describe
from inference.shapes.edits import EDIT_TYPES, EditType, Inapplicable, propose
from inference.shapes.judging import judge_edit, judge_pair, matches
from inference.shapes.phrasings import apply, instruction, parse_instruction
from inference.shapes.render import render
from inference.shapes.scene import Figure, Scene, place_cells, random_scene

HEART = Figure(shape="heart", colour="red", pattern="solid", size="small", column=4, row=4)
STAR = Figure(shape="star", colour="white", pattern="dotted", size="small", column=11, row=11)
ONE = Scene(figures=(HEART,), background="blue")
TWO = Scene(figures=(HEART, STAR), background="blue")


def changed(scene: Scene, shape: str, **change: object) -> Scene:
    figures = tuple(
        replace(figure, **change) if figure.shape == shape else figure for figure in scene.figures
    )
    return replace(scene, figures=figures)


def reason(before: Scene, text: str, after: Scene) -> str:
    verdict = judge_edit(before, text, render(after))
    assert verdict.right == (verdict.reason == "")
    assert verdict.found is not None
    assert verdict.found.canonical() == after.canonical()
    return verdict.reason


@pytest.mark.parametrize("kind", EDIT_TYPES)
def test_a_perfect_editor_is_right_and_a_lazy_one_is_not(kind: EditType) -> None:
    rng = random.Random(f"judging {kind}")
    done = 0
    while done < 15:
        before = random_scene(rng)
        said = describe(before, rng)
        edit = propose(said, kind, rng)
        if edit is None:
            continue
        text = instruction(edit, said, rng)
        try:
            wanted = apply(text, before)
        except Inapplicable:
            continue
        done += 1
        assert matches(wanted, wanted, edit)
        assert not matches(before, wanted, edit)
        assert reason(before, text, wanted) == ""
        assert reason(before, text, before) == "nothing changed"


def test_a_moved_figure_may_stand_anywhere_in_its_place() -> None:
    for column, row in place_cells("on the right", "small"):
        assert (
            reason(
                ONE, "move the heart on the right", changed(ONE, "heart", column=column, row=row)
            )
            == ""
        )


def test_a_moved_figure_must_reach_its_place_and_stay_itself() -> None:
    text = "move the heart on the right"
    there = changed(ONE, "heart", column=12, row=8)
    assert reason(ONE, text, changed(ONE, "heart", column=8, row=8)) == (
        "the heart is in the middle, not on the right"
    )
    assert reason(ONE, text, changed(there, "heart", colour="pink")) == (
        "the heart is pink, not red"
    )
    assert reason(ONE, text, replace(there, background="green")) == (
        "the background is green, not blue"
    )


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("cell", [(11, 4), (12, 12), (4, 12)])
def test_an_added_figure_may_have_any_size_and_place_not_named(
    size: str, cell: tuple[int, int]
) -> None:
    moon = Figure(
        shape="moon", colour="pink", pattern="solid", size=size, column=cell[0], row=cell[1]
    )
    after = replace(ONE, figures=(HEART, moon))
    assert reason(ONE, "add a pink moon", after) == ""
    named = reason(ONE, "add a small pink moon in the bottom right", after)
    is_named = size == "small" and moon.place == "in the bottom right"
    assert (named == "") == is_named


def test_what_an_added_figure_must_be() -> None:
    after = replace(ONE, figures=(HEART, STAR))
    assert reason(ONE, "add a white star", after) == "the star is dotted, not solid"
    assert reason(ONE, "add a striped pink star", after) == (
        "the star is white, not pink; the star is dotted, not striped"
    )
    assert reason(ONE, "add a white cross", after) == "there is no cross; there is a star"


def test_all_else_must_stay_exactly() -> None:
    text = "make the heart green"
    right = changed(TWO, "heart", colour="green")
    assert reason(TWO, text, right) == ""
    assert reason(TWO, text, changed(right, "star", column=12)) == (
        "the star is off by +1 columns and +0 rows"
    )
    assert reason(TWO, text, changed(right, "star", pattern="solid")) == (
        "the star is solid, not dotted"
    )
    assert reason(TWO, text, replace(right, style="outlined")) == "the style is outlined, not flat"
    assert reason(TWO, text, replace(right, figures=right.figures[:1])) == "there is no star"


def test_what_cannot_be_read_is_not_right() -> None:
    verdict = judge_edit(ONE, "make the heart green", np.full((64, 64, 3), 0.5))
    assert not verdict.right
    assert verdict.found is None
    assert verdict.reason.startswith("no clear scene (residual ")


def test_instructions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not an instruction"):
        judge_edit(ONE, "make it nice", render(ONE))
    with pytest.raises(Inapplicable, match="there is no moon here"):
        judge_edit(ONE, "make the moon green", render(ONE))


def test_matches_needs_no_picture() -> None:
    edit, _ = parse_instruction("move the heart at the bottom")
    wanted = changed(ONE, "heart", column=8, row=11)
    assert matches(changed(ONE, "heart", column=7, row=13), wanted, edit)
    assert not matches(changed(ONE, "heart", column=6, row=13), wanted, edit)


def test_a_pair_needs_nothing_but_its_pictures() -> None:
    edited = render(apply("make the heart green", ONE))
    assert judge_pair(render(ONE), "make the heart green", edited) == ""
    assert judge_pair(render(ONE), "make the heart pink", edited) == "the heart is green, not pink"
    assert (
        judge_pair(np.zeros((64, 64, 3)), "make the heart green", edited) == "no clear scene before"
    )
    assert "no star" in judge_pair(render(ONE), "make the star green", edited)
    assert "not an instruction" in judge_pair(render(ONE), "make it nicer", edited)
