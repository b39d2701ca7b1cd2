"""Hugging Face data sets as sources of captions: folders that the library itself wrote or reads."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen import __main__
from data_gen.captions.config import DatasetKnobs
from data_gen.captions.datasets import open_dataset

TEXTS = [f"a photo of the number {number}" for number in range(30)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is prepared goes to a folder of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["parquet", "jsonl", "saved", "saved splits"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A data set with the columns ``caption`` and ``n``."""
    path = tmp_path / "set"
    columns = {"caption": TEXTS, "n": list(range(len(TEXTS)))}
    if request.param == "saved":
        datasets.Dataset.from_dict(columns).save_to_disk(path)
    elif request.param == "saved splits":
        train = datasets.Dataset.from_dict(columns)
        datasets.DatasetDict({"train": train}).save_to_disk(path)
    else:
        path.mkdir()
        if request.param == "parquet":
            pq.write_table(pa.table(columns), path / "train.parquet")
        else:
            rows = [{"caption": text, "n": n} for n, text in enumerate(TEXTS)]
            (path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def texts_of(knobs: DatasetKnobs, column: str | None = None) -> list[str]:
    return [found.text for found in open_dataset(knobs, column).read(lambda _: None)]


@pytest.mark.parametrize("streaming", [True, False])
def test_folders_are_read(folder: Path, streaming: bool) -> None:
    assert texts_of(DatasetKnobs(name=str(folder), streaming=streaming)) == TEXTS


def test_a_data_set_and_a_file_give_the_same_captions(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "set")
    sources = {
        "set": ["--captions.dataset.name", str(tmp_path / "set")],
        "file": ["--captions.file", str(tmp_path / "texts.txt")],
    }
    found = []
    for name, source in sources.items():
        output = tmp_path / f"of {name}"
        line = ["captions", "--output", str(output), "--captions.count", "7", *source]
        assert __main__.main(line) == 0
        found.append((output / "captions.jsonl").read_bytes())
    assert found[0] == found[1]


def test_pictures_beside_the_captions_are_not_looked_at(tmp_path: Path) -> None:
    """They would fail: they are no pictures."""
    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    pictures = [{"bytes": b"no picture", "path": None}] * len(TEXTS)
    found = datasets.Dataset.from_dict({"text": TEXTS, "image": pictures}, features=features)
    (tmp_path / "set").mkdir()
    found.to_parquet(tmp_path / "set" / "train.parquet")
    for streaming in (True, False):
        assert texts_of(DatasetKnobs(name=str(tmp_path / "set"), streaming=streaming)) == TEXTS
    with pytest.raises(ValueError, match="'image' holds objects with the fields bytes, path"):
        texts_of(DatasetKnobs(name=str(tmp_path / "set")), "image")


def test_lists_and_fields_of_objects(tmp_path: Path) -> None:
    rows = {"sentences": [[{"raw": "a cat", "n": 1}, {"raw": "a dog", "n": 2}], [{"raw": "a hen"}]]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    knobs = DatasetKnobs(name=str(tmp_path / "set"))
    assert texts_of(knobs, "sentences.raw") == ["a cat", "a dog", "a hen"]


def test_the_length_is_known_where_the_set_knows_it(folder: Path) -> None:
    assert open_dataset(DatasetKnobs(name=str(folder), streaming=False), None).total == len(TEXTS)


@pytest.mark.parametrize(
    ("column", "split", "said"),
    [
        ("text", "train", "has no column 'text'; its columns are 'caption', 'n'"),
        ("n", "train", "'n' holds int64: expected text"),
        (None, "test", "cannot be read: .*test"),
    ],
)
def test_what_is_not_there_is_named(
    folder: Path, column: str | None, split: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        texts_of(DatasetKnobs(name=str(folder), split=split), column)


def test_code_that_comes_with_a_data_set_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    (hostile / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    line = ["captions", "--output", str(tmp_path), "--captions.dataset.name", str(hostile)]
    assert __main__.main(line) == 1
    assert "scripts are no longer supported" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_hub_out_of_reach_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    line = ["captions", "--output", str(tmp_path), "--captions.dataset.name", "emend/no-such-set"]
    assert __main__.main(line) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: the data set emend/no-such-set cannot be read: ")


def test_tables_of_text_are_left_to_the_reader_that_counts_their_rows(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text('caption\turl\n"a cat\t1\na dog\t2\na "cow"\t3\n')
    with pytest.raises(ValueError, match=r"CSV or TSV files, .* captions\.file"):
        open_dataset(DatasetKnobs(name=str(tmp_path)), None)
