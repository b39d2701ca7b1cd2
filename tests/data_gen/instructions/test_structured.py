"""The ladder stands on the strictest rung that an endpoint keeps to, and stays there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet
from inference.endpoints.failures import ServerError

CAPTIONS = [Caption.of(f"a red circle number {number}") for number in range(4)]
TAGS = ("instruction", "edited_caption", "inverse_instruction")


def write(folder: Path, knobs: Any) -> list[EditTriplet]:
    return write_triplets(
        CAPTIONS, knobs, journal=folder / "journal.jsonl", triplets=folder / "triplets.jsonl"
    )


def prosaic(asked: dict[str, Any]) -> str:
    """A model that cannot be brought to write nothing but JSON."""
    texts = dict.fromkeys(TAGS, asked["caption"] + " in blue")
    return "Of course!\n" + "\n".join(f"<{name}>{text}</{name}>" for name, text in texts.items())


@pytest.mark.parametrize(
    ("rungs", "form"),
    [
        (("json_schema", "json_object"), "json_schema"),
        (("json_object",), "json_object"),
        ((), "tagged"),
    ],
)
def test_the_form_is_what_the_endpoint_takes(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], rungs: tuple[str, ...], form: str
) -> None:
    provider.rungs = rungs
    if form == "tagged":
        provider.say = prosaic
    assert len(write(tmp_path, knobs_for(form="auto"))) == 4
    asked = [
        request.get("response_format", {}).get("type", "tagged") for request in provider.requests
    ]
    assert asked[-4:] == [form] * 4
    # The next run knows it.
    before = len(provider.requests)
    write(tmp_path, knobs_for(form="auto"))
    assert len(provider.requests) == before


def test_a_rung_that_is_taken_and_ignored_does_not_stand(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "ignores" if len(provider.requests) <= 4 else "good"
    provider.say = prosaic
    assert len(write(tmp_path, knobs_for(form="auto"))) == 4
    assert [request.get("response_format", {}).get("type") for request in provider.requests] == [
        *["json_schema"] * 2,
        *["json_object"] * 2,
        *[None] * 4,
    ]


def test_a_data_set_begun_plainly_goes_on_plainly(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    write(tmp_path, knobs_for(form="plain"))
    lines = (tmp_path / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_text("".join(lines[:-1]))
    before = len(provider.requests)
    write(tmp_path, knobs_for(form="auto"))
    assert len(provider.requests) == before + 1
    assert "response_format" not in provider.requests[-1]


def test_a_strict_schema_leaves_room_to_refuse(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.say = lambda asked: json.dumps(dict.fromkeys(TAGS, ""))
    with pytest.raises(ValueError, match="none of 4 answers was usable: {'no such edit suits"):
        write(tmp_path, knobs_for(form="auto"))
    schema = provider.requests[-1]["response_format"]["json_schema"]
    assert schema["strict"]
    assert schema["schema"]["required"] == list(TAGS)
    assert schema["schema"]["additionalProperties"] is False


def test_an_endpoint_that_refuses_us_is_not_probed_on(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    provider.behave = lambda asked, nth: "401"
    with pytest.raises(ServerError, match="refuses.*401"):
        write(tmp_path, knobs_for(form="auto"))
    assert len(provider.requests) == 1
