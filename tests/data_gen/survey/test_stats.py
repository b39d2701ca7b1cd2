"""Stats: the table adds up, and works on sets that are partly finished."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from data_gen import __main__
from data_gen.records import EditTriplet, triplet_to_json
from data_gen.shards import ShardIndex
from data_gen.survey.stats import survey
from inference.files import write_lines

PICTURES = ["survival.png", "reasons.png", "scores.png", "p.png"]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "survival.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_counts_what_is_there(
    published: Path, triplets: list[EditTriplet], tmp_path: Path
) -> None:
    write_lines(published / "triplets.jsonl", map(triplet_to_json, triplets))
    answers = [{"edit_type": "recolour", "rejected": None}] * 10
    answers += [{"edit_type": "move", "rejected": "a text has markup"}]
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
    (tmp_path / "instructions.jsonl").write_text('{"edit_type": "add"}\n{"edit_ty')  # torn
    found = survey(tmp_path)
    assert (found.captions, dict(found.stages["asked"])) == (2, {"add": 1})
    line = ["stats", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert __main__.main(line) == 0


def test_units_without_a_receipt_do_not_count(published: Path) -> None:
    before = survey(published).stages["candidates"].total()
    (published / "receipts" / "00001.json").unlink()
    (published / "index.parquet").unlink()
    assert survey(published).stages["candidates"].total() == before / 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions.jsonl", "", "no data set"),
        ("instructions.jsonl", "[1]\n", "expected a JSON object"),
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
