"""Scorers in a run, from the command line: what they say is stored, decides, and is paid once."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_gen import __main__
from data_gen.judging.vision_judge import JOURNAL
from data_gen.records import EditTriplet, triplet_to_json
from data_gen.shards import ShardIndex
from inference.clip import load_clip
from inference.files import write_lines
from inference.shapes import MODELS
from tests.data_gen.judging.eyes import Eyes

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, tiny_folder: Path, triplets: list[EditTriplet]) -> Run:
    """`run(*line, to="data")`: the pair stage on tiny models; all that CLIP sees is good."""

    def pairs(*line: str, to: str = "data") -> int:
        root = tmp_path / to
        if not (root / "triplets.jsonl").exists():
            write_lines(root / "triplets.jsonl", map(triplet_to_json, triplets[:4]))
        plain = {
            "model": str(tiny_folder),
            "render.steps": "3",
            "render.seeds": "2",
            "render.branches": "2",
            "filter.thresholds": str(
                dict.fromkeys(("image_image", "text_source", "text_edited", "directional"), -1)
            ),
            "filter.keep": "1",
            "unit_size": "2",
        }
        words = [word for name, value in plain.items() for word in (f"--pairs.{name}", value)]
        return __main__.main(["pairs", "--output", str(root), *words, *line])

    return pairs


@pytest.fixture
def everyone(
    eyes: Eyes,
    dino_folder: Path,
    safety_folder: Callable[..., Path],
    aesthetic_head: Callable[[int], Path],
) -> list[str]:
    """Knobs that ask every scorer there is."""
    clip = load_clip(MODELS / "clip")
    knobs = {
        "safety": str(safety_folder([0])),
        "dino": str(dino_folder),
        "aesthetic.head": str(aesthetic_head(clip.text(["a"]).shape[-1])),
        "judge.model": "eyes",
        "judge.base_url": eyes.base_url,
        "judge.max_retries": "0",
    }
    return [word for name, value in knobs.items() for word in (f"--pairs.scorers.{name}", value)]


def described(root: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    found.append(json.loads(file.read()))
    return found


def bytes_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*.tar")}


def test_all_scores_are_stored_and_a_judge_is_shown_what_is_to_be_kept(
    run: Run, everyone: list[str], eyes: Eyes, tmp_path: Path
) -> None:
    assert run(*everyone) == 0
    root = tmp_path / "data"
    index = ShardIndex(root)
    assert len(index) == 4
    for row, pair in zip(map(index.__getitem__, range(4)), described(root), strict=True):
        assert -1 <= row.dino <= 1
        assert 0 <= row.judge <= 1
        assert row.unsafe == 0
        expected = {"dino": row.dino, "judge": row.judge, "unsafe": 0, "aesthetic": row.aesthetic}
        assert {name: pair["scores"][name] for name in expected} == expected
        assert (pair["provenance"]["judge"], pair["provenance"]["aesthetic"]) == (
            "eyes",
            "head.safetensors",
        )
    candidates = [
        row
        for path in sorted((root / "candidates").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert len(candidates) == 16
    assert all(row["dino"] is not None and row["aesthetic"] is not None for row in candidates)
    assert sum(row["judge"] is not None for row in candidates) == len(eyes.seeds) == 4
    least = sorted(index[place].judge for place in range(4))[2]
    assert 1 <= int((index.column("judge") >= least).sum()) <= 2
    # Stricter: what fails is replaced by the next best, and nobody is asked twice.
    assert run(*everyone, "--pairs.filter.at_least.judge", str(least)) in (0, 1)
    assert len(eyes.seeds) == len(set(eyes.seeds)) > 4


def test_a_run_whose_judge_failed_is_not_done_and_ends_like_an_unbroken_one(
    run: Run,
    everyone: list[str],
    eyes: Eyes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*everyone, to="whole") == 0
    asked = len(eyes.seeds)
    eyes.behave = lambda said, nth: "503" if len(eyes.seeds) == asked + 1 else "good"
    assert run(*everyone) == 1
    said = capsys.readouterr().err
    assert "units failed, {'JudgeError: the judge gave no answer to" in said
    eyes.behave = lambda said, nth: "good"
    assert run(*everyone) == 0
    assert bytes_of(tmp_path / "data") == bytes_of(tmp_path / "whole")
    assert len(eyes.seeds) == 2 * asked
    assert len((tmp_path / "data" / JOURNAL).read_text().splitlines()) == asked


def test_unsafe_pairs_are_written_nowhere(
    run: Run, safety_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--pairs.scorers.safety", str(safety_folder(None))) == 1
    assert "no pair passed the filter" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.tar"))
    tables = [pq.read_table(path) for path in (tmp_path / "data/candidates").glob("*.parquet")]
    assert {reason for table in tables for reason in table["reason"].to_pylist()} == {"unsafe"}


def test_a_bound_on_a_score_that_nobody_gives_is_an_error(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--pairs.filter.at_least.dino", "0.5") != 0
    assert "pairs.filter bounds dino, which needs pairs.scorers.dino" in capsys.readouterr().err
