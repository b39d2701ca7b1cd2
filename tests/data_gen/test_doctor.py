"""`doctor` of data_gen: all that a recipe lacks, at once."""

from pathlib import Path

import pytest

from data_gen.__main__ import main
from data_gen.records import Caption, caption_to_json
from emend.__main__ import main as emend
from inference.files import write_lines


def marks(said: str) -> dict[str, str]:
    """What was looked at -> its mark."""
    return {line.split()[1]: line[0] for line in said.splitlines() if line[0] in "✓✗·"}


def test_a_recipe_of_real_weights_tells_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["doctor", "laptop-sd15", "--instructions.base_url", "http://127.0.0.1:9/v1"]
    assert emend([*line, "--executor.kind", "ray"]) == 1
    told = capsys.readouterr()
    missing = ["captions.file", "instructions.base_url", "pairs.model", "pairs.clip"]
    assert [name for name, mark in marks(told.out).items() if mark == "✗"] == missing
    assert marks(told.out).items() >= {("output", "✓"), ("executor.kind", "✓"), ("memory", "·")}
    assert told.err.endswith(f"lacks {', '.join(missing)}\n")
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["out"])


def test_the_shapes_lack_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--config", "shapes-quickstart"]) == 0
    told = capsys.readouterr().out
    assert {*marks(told).values()} == {"✓"}
    assert told.endswith("can begin\n")


def test_scorers_keys_and_examples_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JUDGES_KEY", raising=False)
    scorers = "--pairs.scorers"
    line = [f"{scorers}.dino", "./dino", f"{scorers}.aesthetic.head", "head.safetensors"]
    line += [f"{scorers}.judge.model", "judge", f"{scorers}.judge.key_env", "JUDGES_KEY"]
    line += [f"{scorers}.judge.base_url", "http://127.0.0.1:9/v1"]
    line += ["--instructions.examples", "none.jsonl", "--output", "out"]
    assert main(["doctor", *line]) == 1
    found = marks(capsys.readouterr().out)
    assert [name for name, mark in found.items() if mark == "✗"] == [
        "instructions.examples",
        "pairs.scorers.dino",
        "pairs.scorers.aesthetic.head",
        "pairs.scorers.judge.key_env",
    ]


def test_what_is_done_is_not_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = [Caption.of("a red circle on a blue background")]
    write_lines(tmp_path / "captions.jsonl", map(caption_to_json, captions))
    (tmp_path / "triplets.jsonl").touch()
    line = ["doctor", "--output", str(tmp_path), "--instructions.base_url", "http://127.0.0.1:9/v1"]
    assert main(line) == 0
    assert "instructions  written already" in capsys.readouterr().out


def test_a_recipe_in_both_groups_must_be_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert emend(["doctor", "shapes"]) == 2
    assert "may be data/shapes or train/shapes: say which" in capsys.readouterr().err
    assert emend(["doctor", "shaps"]) == 2
    assert "expected one of data/cluster, " in capsys.readouterr().err
    assert emend(["doctor"]) == 2
