"""Which words an edit kept, which moved with their phrase, and which took the place of others."""

import re

import pytest

from inference.word_matches import match_words

FRAMED = "a large {} circle on the left and a large {} star on the right"


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def replacements(before: str, after: str) -> list[tuple[str, str]]:
    """Which words stand in the place of which others."""
    old, new = words(before), words(after)
    return [
        (" ".join(old[i] for i in gone), " ".join(new[j] for j in come))
        for gone, come in match_words(old, new).replaced
    ]


def is_partition(before: str, after: str) -> bool:
    """Whether every word is accounted for once, and the same words are equal."""
    old, new = words(before), words(after)
    found = match_words(old, new)
    of_old = [i for i, _ in found.same] + [i for gone, _ in found.replaced for i in gone]
    of_new = [j for _, j in found.same] + [j for _, come in found.replaced for j in come]
    complete = sorted(of_old + found.deleted) == list(range(len(old)))
    return (
        complete
        and len(set(of_new)) == len(of_new)
        and all(old[i] == new[j] for i, j in found.same)
    )


IN_PLACE = [
    # Attributes, of a scene of two or three.
    (FRAMED.format("red", "blue"), FRAMED.format("blue", "red"), "red>blue blue>red"),
    (
        "a small circle on the left and a large star on the right",
        "a large circle on the left and a small star on the right",
        "small>large large>small",
    ),
    (
        "a red circle, a blue star and a green heart",
        "a green circle, a red star and a blue heart",
        "red>green blue>red green>blue",
    ),
    (
        "a red circle and a light blue star",
        "a light blue circle and a red star",
        "red>light blue;light blue>red",
    ),
    (
        "the circle is red and the star is blue",
        "the circle is blue and the star is red",
        "red>blue blue>red",
    ),
    ("a black cat and white dog", "a white cat and black dog", "black>white white>black"),
    # Things in places that stay.
    (
        "a red circle on the left and a blue star on the right",
        "a blue star on the left and a red circle on the right",
        "red circle>blue star;blue star>red circle",
    ),
    ("a red circle and a blue star", "a red star and a blue circle", "circle>star star>circle"),
    (
        "a very old red cup on a dish",
        "a dish on a very old red cup",
        "very old red cup>dish;dish>very old red cup",
    ),
    (
        "a red circle above a blue star",
        "a blue star above a red circle",
        "red circle>blue star;blue star>red circle",
    ),
    # Places and what binds them.
    (
        "a circle on the left and a star on the right",
        "a circle on the right and a star on the left",
        "left>right right>left",
    ),
    ("a cat on a mat under a tree", "a cat under a mat on a tree", "on>under under>on"),
    # One attribute of two.
    ("a red circle and a blue star", "a red circle and a red star", "blue>red"),
    ("a blue circle and a red star", "a red circle and a red star", "blue>red"),
    ("a red circle and a blue star", "a green circle and a red star", "red>green blue>red"),
    ("a red circle and a blue star", "a circle and a red star", "blue>red"),
]


@pytest.mark.parametrize(("before", "after", "expected"), IN_PLACE)
def test_what_stands_in_anothers_place_replaces_it(before: str, after: str, expected: str) -> None:
    pairs = re.split(";", expected) if ";" in expected else expected.split()
    assert replacements(before, after) == [tuple(pair.split(">")) for pair in pairs]
    assert is_partition(before, after)


MOVED = [
    ("a red circle and a blue star", "a blue star and a red circle"),
    (
        "a large red circle on the left and a small blue star on the right",
        "a small blue star on the right and a large red circle on the left",
    ),
    (
        "a photo of a large red circle on the left and a large blue star on the right, outlined",
        "a photo of a large blue star on the right and a large red circle on the left, outlined",
    ),
    (
        "a photo of a cat on the left and a dog on the right on a white wall",
        "a photo of a dog on the right and a cat on the left on a white wall",
    ),
    (
        "a red circle, a blue star and a green heart",
        "a green heart, a red circle and a blue star",
    ),
    ("a red hat and a blue hat", "a blue hat and a red hat"),
    ("a black and white cat", "a white and black cat"),
    ("cat dog", "dog cat"),
    ("a lovely cat on a mat", "a cat on a mat lovely"),
    ("at night, a cat", "a cat, at night"),
]


@pytest.mark.parametrize(("before", "after"), MOVED)
def test_what_moved_with_its_phrase_is_the_same(before: str, after: str) -> None:
    assert replacements(before, after) == []
    assert match_words(words(before), words(after)).deleted == []
    assert is_partition(before, after)


def test_a_phrase_that_moved_and_one_that_moved_and_changed() -> None:
    before = "a red circle on the left and a blue star on the right"
    after = "a blue star on the right and a green circle on the left"
    assert replacements(before, after) == [("red", "green")]
    assert is_partition(before, after)


def test_an_attribute_that_went_over_to_another_thing_is_not_the_same_word() -> None:
    before, after = "a red circle and a star", "a circle and a red star"
    found = match_words(words(before), words(after))
    assert found.replaced == []
    assert [words(before)[i] for i in found.deleted] == ["red"]
    assert (1, 5) not in found.same


def test_repeated_words_stay_with_their_phrases() -> None:
    before = "a red hat on a red chair and a red coat"
    after = "a red coat and a red hat on a red chair"
    old, new = words(before), words(after)
    found = dict(match_words(old, new).same)
    assert [new[found[i] + 1] for i, word in enumerate(old) if word == "red"] == [
        "hat",
        "chair",
        "coat",
    ]


@pytest.mark.parametrize("after", ["", "a", "and", ", ,", "a cat", "dog and cat and bird"])
def test_short_and_odd_sentences(after: str) -> None:
    for before in ("", "and", "a cat", "cat and dog", ", cat ,"):
        assert is_partition(before, after)
