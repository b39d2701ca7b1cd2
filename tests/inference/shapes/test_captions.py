"""Captions: put into words and read back."""

import random

import pytest

from inference.shapes.captions import (
    Description,
    FigureDescription,
    caption,
    describe,
    describes,
    parse,
)
from inference.shapes.near_misses import any_scene


@pytest.mark.parametrize("detail", [0.0, 0.5, 1.0])
def test_a_caption_reads_back(detail: float) -> None:
    rng = random.Random(0)
    for _ in range(300):
        description = describe(any_scene(rng), rng, detail=detail)
        assert parse(caption(description)) == description


def test_a_caption_is_true_of_its_scene() -> None:
    rng = random.Random(1)
    for _ in range(300):
        scene = any_scene(rng)
        assert describes(describe(scene, rng), scene)


def test_full_captions_tell_scenes_apart() -> None:
    rng = random.Random(2)
    scenes = [any_scene(rng) for _ in range(60)]
    for first in scenes:
        said = describe(first, rng, detail=1.0)
        for second in scenes:
            if describes(said, second):
                assert describe(second, rng, detail=1.0) in (
                    said,
                    Description(
                        figures=said.figures[::-1], background=said.background, style=said.style
                    ),
                )


def test_words_and_their_order() -> None:
    description = Description(
        figures=(
            FigureDescription(
                shape="heart", colour="orange", pattern="striped", size="small", place="on the left"
            ),
            FigureDescription(shape="star", colour="white"),
        ),
        background="orange",
        style="outlined",
    )
    assert caption(description) == (
        "a small striped orange heart on the left and a white star on an orange background, "
        "outlined"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red dog on a blue background",
        "a red heart",
        "a red heart on a blue background, upside down",
        "a red heart and a red star and a red moon on a blue background",
        "a red heart on a blue background and more",
    ],
)
def test_what_is_no_caption_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=f"not a caption of the shapes world: '{text}'"):
        parse(text)
