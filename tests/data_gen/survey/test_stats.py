"""Stats: the table adds up, and works on sets that are partly finished."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_gen import __main__
from data_gen.instructions.stage import write_triplets
from data_gen.records import Caption, EditTriplet, triplet_to_json
from data_gen.shards import ShardIndex
from data_gen.survey.stats import survey
from inference.endpoints.budget import Prices
from inference.files import write_lines
from tests.provider import good

PICTURES = ["survival.png", "reasons.png", "scores.png", "p.png"]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "survival.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_counts_what_is_there(
    published: Path, triplets: list[EditTriplet], tmp_path: Path
) -> None:
    write_lines(published / "triplets.jsonl", map(triplet_to_json, triplets))
    answers = [{"edit_type": "recolour", "answer": "{}", "rejected": None}] * 10
    answers += [{"edit_type": "move", "answer": "<b>", "rejected": "a text has markup"}]
    write_lines(published / "instructions.jsonl", map(json.dumps, answers))
    out = tmp_path / "out"
    assert __main__.main(["stats", "--data", str(published), "--output", str(out)]) == 0
    recolour, move, every = table(out)
    kept = len(ShardIndex(published))
    assert recolour["edit type"] == "recolour"
    assert (recolour["asked"], recolour["triplets"], recolour["candidates"]) == ("10", "10", "40")
    assert int(recolour["kept"]) == int(every["kept"]) == kept
    assert (move["asked"], move["triplets"]) == ("1", "0")
    assert every["asked"] == "11"
    for name in PICTURES:
        with Image.open(out / name) as image:
            assert image.width > 200
    assert survey(published).refusals == {"a text has markup": 1}


def test_a_run_in_its_first_stage_has_a_table(tmp_path: Path) -> None:
    write_lines(tmp_path / "captions.jsonl", ["{}", "{}"])
    answer = '{"edit_type": "add", "answer": "{}"}'
    (tmp_path / "instructions.jsonl").write_text(f"{answer}\n{answer[:9]}")  # torn
    found = survey(tmp_path)
    assert (found.captions, dict(found.stages["asked"])) == (2, {"add": 1})
    line = ["stats", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert __main__.main(line) == 0


def test_only_the_answers_of_a_journal_are_counted(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any]
) -> None:
    """One with money, rounds, a form and moderation in it, and an answer that came late."""
    provider.behave = lambda asked, nth: (
        "503" if asked["caption"][-1] == "3" and not nth else "good"
    )
    provider.say = lambda asked: "no" if asked["caption"][-1] in "12" else good(asked["caption"])
    captions = [Caption.of(f"a red circle number {number}") for number in range(8)]
    write_lines(tmp_path / "captions.jsonl", ["{}"] * 8)
    knobs = knobs_for(
        form="auto",
        rounds=2,
        prices=Prices(input=1, output=1),
        budget=1.0,
        moderation="m",
    )
    journal = tmp_path / "instructions.jsonl"
    write_triplets(captions, knobs, journal=journal, triplets=tmp_path / "triplets.jsonl")
    kinds = {key for line in journal.read_text().splitlines() for key in json.loads(line)}
    assert {"reserved", "freed", "round", "form", "moderated"} <= kinds
    found = survey(tmp_path)
    assert found.stages["asked"] == {"recolour": 8}
    assert found.stages["triplets"] == {"recolour": 6}
    assert found.refusals == {"not one JSON object": 2}


def test_units_without_a_receipt_do_not_count(published: Path) -> None:
    before = survey(published).stages["candidates"].total()
    (published / "receipts" / "00001.json").unlink()
    (published / "index.parquet").unlink()
    assert survey(published).stages["candidates"].total() == before / 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions.jsonl", "", "no data set"),
        ("instructions.jsonl", "[1]\n", "line 1 holds a list; expected an object"),
        ("receipts/00000.json", "[]", "is no receipt"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, said: str
) -> None:
    if content:
        write_lines(tmp_path / "captions.jsonl", ["{}"])
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert __main__.main(["stats", "--data", str(tmp_path), "--output", str(tmp_path / "o")]) == 1
    assert said in capsys.readouterr().err


def test_an_edit_type_is_shown_as_it_is(tmp_path: Path) -> None:
    write_lines(tmp_path / "captions.jsonl", ["{}"])
    answer = {"edit_type": "$\\frac$ ^_ $", "answer": "{}"}
    write_lines(tmp_path / "instructions.jsonl", [json.dumps(answer)])
    line = ["stats", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert __main__.main(line) == 0
    assert (tmp_path / "out" / "survival.png").is_file()


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    for content in ("[" * 100_000, '[["edit_type", "add"]]'):
        write_lines(tmp_path / "captions.jsonl", ["{}", content])
        with pytest.raises(ValueError, match=r"captions\.jsonl, line 2 "):
            survey(tmp_path)
