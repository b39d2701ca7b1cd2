"""Instructions: every phrasing is understood as what it was made from."""

import random

import pytest

from inference.shapes.captions import describe
from inference.shapes.edits import EDIT_TYPES, Edit, EditType, Inapplicable, edit_scene, propose
from inference.shapes.phrasings import (
    HELD_OUT,
    apply,
    fill_template,
    instruction,
    parse_instruction,
    phrasings,
)
from inference.shapes.scene import Figure, Scene, random_scene
from inference.shapes.vocabulary import STYLES

HEART = Figure(shape="heart", colour="red", pattern="solid", size="small", column=4, row=4)
SCENE = Scene(figures=(HEART,), background="blue")


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", EDIT_TYPES)
def test_every_phrasing_reads_back(kind: EditType, held_out: bool) -> None:
    rng = random.Random(f"phrasings {kind}")
    for _ in range(40):
        said = describe(random_scene(rng), rng)
        edit = propose(said, kind, rng)
        if edit is None:
            continue
        colours = {figure.shape: figure.colour for figure in said.figures}
        for template in phrasings(edit, held_out=held_out):
            for full in (False, True):
                text = fill_template(template, edit, said, full=full)
                parsed, colour = parse_instruction(text)
                assert parsed == edit, text
                named = full and "{thing}" in template
                assert colour == (colours[edit.target] if named and edit.target else None), text
                assert parse_instruction(f" {text.capitalize()}. ") == (parsed, colour)


@pytest.mark.parametrize("kind", EDIT_TYPES)
def test_there_are_many_phrasings_and_some_are_held_out(kind: EditType) -> None:
    values = {"resize": ("small", "large"), "style": STYLES}.get(kind, (None,))
    for value in values:
        edit = Edit(kind=kind, target="heart", value=value)
        trained, held_out = phrasings(edit), phrasings(edit, held_out=True)
        assert len(trained) >= 10
        assert len(held_out) == HELD_OUT
        assert not set(trained) & set(held_out)


def test_an_instruction_does_what_its_edit_does() -> None:
    rng = random.Random(5)
    done = 0
    for number in range(200):
        scene = random_scene(rng)
        said = describe(scene, rng)
        edit = propose(said, EDIT_TYPES[number % len(EDIT_TYPES)], rng)
        if edit is None:
            continue
        text = instruction(edit, said, rng, held_out=number % 2 == 0)
        try:
            wanted = edit_scene(edit, scene)
        except Inapplicable:
            with pytest.raises(Inapplicable):
                apply(text, scene)
            continue
        assert apply(text, scene) == wanted
        done += 1
    assert done > 100


def test_a_target_of_another_colour_is_not_there() -> None:
    with pytest.raises(Inapplicable, match="there is no white heart in the scene"):
        apply("make the white heart green", SCENE)


@pytest.mark.parametrize("text", ["", "make it nice", "make the dog red", "add a red heart please"])
def test_what_is_no_instruction_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=f"not an instruction of the shapes world: '{text}'"):
        parse_instruction(text)
