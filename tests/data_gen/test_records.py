"""Ids are content: they survive the disk, and a changed text does not pass for the old one."""

import json

import pytest

from data_gen.records import (
    Caption,
    EditTriplet,
    caption_from_json,
    caption_to_json,
    triplet_from_json,
    triplet_to_json,
)
from inference.content_id import content_id


def test_ids_do_not_depend_on_the_machine() -> None:
    assert content_id("a", "b") == "3554d2b8a1e34099"
    assert content_id("ab") != content_id("a", "b") != content_id("b", "a")


def test_records_survive_the_disk(triplets: list[EditTriplet]) -> None:
    caption = Caption.of("ein Kreis \N{SNOWMAN}")
    assert caption_from_json(caption_to_json(caption)) == caption
    assert triplet_from_json(triplet_to_json(triplets[0])) == triplets[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"caption": "another"}, "not the hash"),
        ({"instruction": 3}, "must be strings"),
        ({"extra": "x"}, "has the fields"),
    ],
)
def test_a_changed_triplet_is_refused(
    triplets: list[EditTriplet], change: dict[str, object], said: str
) -> None:
    line = json.dumps(json.loads(triplet_to_json(triplets[0])) | change)
    with pytest.raises(ValueError, match=said):
        triplet_from_json(line)
