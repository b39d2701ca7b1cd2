"""Ids are content: they survive the disk, and a changed text does not pass for the old one."""

import json
from pathlib import Path

import pytest

from data_gen.files import read_lines
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


def test_lines_of_triplets_may_hold_what_python_takes_for_line_ends(
    triplets: list[EditTriplet], tmp_path: Path
) -> None:
    odd = EditTriplet.of(**{**_texts(triplets[0]), "caption": "a\u2028b\x0cc"})
    fields = [dict(vars(one)) for one in (odd, triplets[0])]
    path = tmp_path / "triplets.jsonl"
    lines = [json.dumps(one, ensure_ascii=False).replace("\\f", "\\u000c") for one in fields]
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text("\r\n".join(lines), encoding=encoding, newline="")
        assert read_lines(path, triplet_from_json, stage="x") == [odd, triplets[0]]
    path.write_text(json.dumps(fields))
    assert read_lines(path, triplet_from_json, stage="x") == [odd, triplets[0]]
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"triplets\.jsonl is nested too deep"):
        read_lines(path, triplet_from_json, stage="x")


def _texts(triplet: EditTriplet) -> dict[str, str]:
    return {name: text for name, text in vars(triplet).items() if name != "id"}
