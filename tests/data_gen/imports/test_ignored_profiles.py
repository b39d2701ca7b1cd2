"""Colour profiles that cannot be applied are counted where pictures are: imports and looks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_gen import __main__
from data_gen.imports.reading import open_pairs
from data_gen.shards import INDEX_FILE, ShardIndex, scan_shard, shard_writer, write_index
from training.data.config import Framing
from training.data.inspection import inspect, notes

NOTE = "whose colour profile cannot be read"


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    """Four pairs; three of the eight pictures have a profile that is none, one of them alone."""
    rows = []
    for number in range(4):
        names = [f"{number}{side}.{kind}" for side, kind in (("a", "jpg"), ("b", "png"))]
        for side, name in enumerate(names):
            image = Image.new("RGB", (32, 32), (50 * number, 100 + 90 * side, 50))
            broken = number == 1 or (number == 2 and side == 1)
            image.save(tmp_path / name, **({"icc_profile": b"none"} if broken else {}))
        rows.append({"source": names[0], "target": names[1], "instruction": f"do {number}"})
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_an_import_counts_them_and_so_does_one_that_goes_on(
    edits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    line = ["import", "--layout=jsonl", f"--source={edits}", f"--output={output}"]
    for _ in range(2):
        assert __main__.main([*line, "--unit_size=2"]) == 0
        said = capsys.readouterr().out
        assert f"note: 3 pictures {NOTE} are read without it\n" in said
        assert "4 of 4 pairs, 0 refused" in said
    found = [json.loads(path.read_text())["notes"] for path in output.glob("receipts/*.json")]
    assert sum(one.get(NOTE, 0) for one in found) == 3


def test_a_look_counts_them_where_a_data_set_lies(edits: Path) -> None:
    found = inspect(open_pairs(str(edits), layout="jsonl"), np.arange(4), Framing(), quiet=True)
    assert found.faults == {}
    assert notes([found]) == [f"{edits}: 3 pictures {NOTE} are read without it"]


def test_a_look_counts_them_in_shards(edits: Path, tmp_path: Path) -> None:
    __main__.main(["import", "--layout=jsonl", f"--source={edits}", f"--output={tmp_path / 'a'}"])
    index = ShardIndex(tmp_path / "a")
    others, tar = tmp_path / "b", tmp_path / "b" / "shards" / "0.tar"
    tar.parent.mkdir(parents=True)
    jpegs = [(edits.parent / f"{number}a.jpg").read_bytes() for number in range(4)]
    with shard_writer(tar, {}) as writer:  # as others may write them
        for number in range(4):
            writer.write_imported(index.read(number), jpegs[number], jpegs[number], {})
    write_index(others / INDEX_FILE, scan_shard(tar, "shards/0.tar"))
    for root, count in ((tmp_path / "a", 0), (others, 2)):
        found = inspect(open_pairs(str(root)), np.arange(4), Framing(), quiet=True)
        assert found.faults == {}
        assert found.notes.total() == count
