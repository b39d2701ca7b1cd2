"""What is wrong with a data set is told before the first step; what is not seen is passed over."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_gen.imports.reading import BadPair, open_pairs
from data_gen.shards import ShardIndex
from training.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


def fit(base: Path, output: Path, *data: str) -> list[str]:
    return [
        "fit",
        "--config=training/recipes/shapes.yaml",
        f"--output={output}",
        f"--model.base={base}",
        "--data.shards=null",
        *data,
        "--data.cache_latents=false",
        "--data.batch_size=4",
        "--data.held_out=0",
        "--data.backwards=0",
        "--trainer.max_steps=3",
        "--trainer.accelerator=cpu",
        "--held_out_edits.samples=0",
    ]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Twenty pairs, of which five are sound."""
    folder = tmp_path / "edits"
    folder.mkdir()
    for number in range(20):
        for side in ("a", "b"):
            image = Image.new("RGB", (32, 32), (7 * number, 100 if side == "a" else 200, 50))
            image.save(folder / f"{number}{side}.png")
    rows = [
        {"source": f"{n}a.png", "target": f"{n}b.png", "instruction": f"do {n}"} for n in range(20)
    ]
    rows[1]["instruction"] = "  "
    rows[2]["target"] = "nowhere.png"
    rows[3]["target"] = "../secret.png"
    rows[4] = dict(rows[0])
    rows[5]["instruction"] = "a word " * 40
    Image.new("RGB", (32, 48)).save(folder / "6b.png")
    content = (folder / "7a.png").read_bytes()
    (folder / "7a.png").write_bytes(content[: len(content) // 2])
    (folder / "8b.png").write_text("no picture")
    for number in range(9, 15):
        (folder / f"{number}a.png").unlink()
    (folder / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "edits.jsonl"


def test_all_faults_are_in_one_report_and_no_step_is_made(
    faulty: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = json.dumps([{"path": str(faulty), "layout": "jsonl"}])
    with pytest.raises(SystemExit) as ending:
        main(fit(tiny_folder, tmp_path / "run", f"--data.sets={sets}"))
    said = capsys.readouterr().err
    assert ending.value.code == 1
    assert "14 of 20 pairs cannot be trained on" in said
    for expected in (
        "7 x a file is not there\n      line 3",
        "      and 4 more",
        "1 x its instruction is empty\n      line 2",
        "1 x a path leads out of the data set\n      line 4",
        "1 x it comes twice\n      line 5: first as line 1",
        "1 x an instruction has more than the 32 tokens that the text encoder reads\n      line 6",
        "1 x its pictures differ in aspect ratio\n      line 7: 32x32 and 32x48",
        "1 x a picture cannot be decoded; it may be truncated\n      line 8",
        "1 x a picture is no PNG, JPEG or WebP\n      line 9",
    ):
        assert expected in said
    last, whole = said.strip().splitlines()[-1], tmp_path / "run" / "faulty.jsonl"
    expected = f"14 of 20 pairs cannot be trained on, listed in {whole}: mend them, or set data.fau"
    assert last.startswith(expected)
    assert "training:" not in said
    listed = [json.loads(line) for line in whole.read_text().splitlines()]
    lines = [4, 2, 3, *range(5, 16)]
    assert sorted(one["where"] for one in listed) == sorted(f"line {line}" for line in lines)
    assert {one["set"] for one in listed} == {str(faulty)}
    assert sum(one["reason"] == "a file is not there" for one in listed) == 7

    command = fit(tiny_folder, tmp_path / "run2", f"--data.sets={sets}", "--data.faulty=leave_out")
    command.remove("--data.held_out=0")
    command.remove("--held_out_edits.samples=0")
    clip = "--held_out_edits.clip=inference/shapes/models/clip"
    more = ["--data.held_out=0.5", "--held_out_edits.every=3", "--model.settings.steps=1"]
    main([*command, *more, clip])
    said = capsys.readouterr()
    listed_in = f"listed in {tmp_path / 'run2' / 'faulty.jsonl'}"
    assert f"14 of 20 pairs are left out, {listed_in}" in said.out
    assert "3 steps done" in said.out
    assert (
        "held-out pairs have no captions: held_out/directional_similarity is left out" in said.err
    )


def test_uncut_pictures_must_fit_the_vae_and_one_another(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [(32, 32), (32, 40), (32, 32), (30, 30), (32, 32)]
    rows = []
    for number, size in enumerate(sizes):
        for side in ("a", "b"):
            Image.new("RGB", size, (9 * number, 99, 9)).save(tmp_path / f"{number}{side}.png")
        rows.append({"source": f"{number}a.png", "target": f"{number}b.png", "instruction": "do"})
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    sets = json.dumps([{"path": str(path), "layout": "jsonl"}])
    with pytest.raises(SystemExit):
        main(fit(tiny_folder, tmp_path / "run", f"--data.sets={sets}"))
    said, uncut = capsys.readouterr().err, ", and data.framing.resolution is null\n      "
    for expected in (
        f"1 x its size is not that of most{uncut}line 2: 32x40, expected 32x32",
        f"1 x its sides are no multiples of 4{uncut}line 4: 30x30",
        "2 of 5 pairs cannot be trained on",
    ):
        assert expected in said


def test_what_is_wrong_with_several_sets_is_told_together(
    shards: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [
        {"path": str(shards), "at_least": {"beauty": 1}},
        {"path": "nowhere"},
        {"path": "ftp://host/data"},
    ]
    with pytest.raises(SystemExit):
        main(fit(tiny_folder, tmp_path / "run", f"--data.sets={json.dumps(sets)}"))
    said = capsys.readouterr().err
    for expected in (
        "has no score beauty; it has ['directional'",
        "no index at nowhere/index.parquet",
        "'ftp://host/data' is no folder or URL that is read here",
        "3 of 3 data sets cannot be read",
    ):
        assert expected in said


def test_pairs_are_looked_at_where_another_set_is_missing(
    faulty: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [{"path": "nowhere"}, {"path": str(faulty), "layout": "jsonl"}]
    with pytest.raises(SystemExit):
        main(fit(tiny_folder, tmp_path / "run", f"--data.sets={json.dumps(sets)}"))
    said = capsys.readouterr().err
    for expected in (
        "7 x a file is not there",
        "no index at nowhere/index.parquet",
        "1 of 2 data sets cannot be read, see above",
        "14 of 20 pairs cannot be trained on, listed in",
    ):
        assert expected in said


@pytest.fixture
def spoil() -> Callable[[Path, int], str]:
    """`spoil(root, row)`: ruin the inside of a stored JPEG, which no look sees."""

    def ruin(root: Path, row: int) -> str:
        found = ShardIndex(root)[row]
        path = root / found.shard
        content = bytearray(path.read_bytes())
        inside = slice(found.edited_offset + 4, found.edited_offset + found.edited_size - 2)
        content[inside] = bytes(found.edited_size - 6)
        path.write_bytes(content)
        return found.key

    return ruin


def test_a_sample_that_is_corrupt_inside_is_named_and_passed_over_alike_every_time(
    own_shards: Path,
    tiny_folder: Path,
    tmp_path: Path,
    spoil: Callable[[Path, int], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = {spoil(own_shards, row) for row in (0, 1, 2)}
    curves = []
    for run in ("first", "second"):
        command = fit(tiny_folder, tmp_path / run, f"--data.shards={own_shards}")
        command.remove("--data.shards=null")
        main([*command, "--trainer.log_every_n_steps=1"])
        said = capsys.readouterr()
        assert "passed over: " in said.err
        listed = (tmp_path / run / "passed-over.jsonl").read_text().splitlines()
        named = {json.loads(line)["pair"] for line in listed}
        assert f"{len(named)} damaged pairs were passed over" in said.out
        assert all(any(key in one for key in keys) for one in named)
        with (tmp_path / run / "logs/version_0/metrics.csv").open() as file:
            curves.append([row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]])
    assert curves[0] == curves[1]
    assert curves[0]


def test_a_set_that_is_corrupt_throughout_is_an_error(
    own_shards: Path,
    tiny_folder: Path,
    tmp_path: Path,
    spoil: Callable[[Path, int], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for row in range(18):
        spoil(own_shards, row)
    command = fit(tiny_folder, tmp_path / "run", f"--data.shards={own_shards}")
    command.remove("--data.shards=null")
    with pytest.raises(SystemExit) as ending:
        main(command)
    assert ending.value.code == 1
    assert "pairs in a row cannot be used" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_comes_from_the_command_line(faulty: Path, tmp_path: Path, tiny_folder: Path):
    sets = json.dumps([{"path": str(faulty), "layout": "jsonl"}])
    command = fit(tiny_folder, tmp_path / "run", f"--data.sets={sets}")
    done = subprocess.run(
        [sys.executable, "-m", "training", *command], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 1
    assert "14 of 20 pairs cannot be trained on" in done.stderr


def test_a_look_refuses_what_reading_refuses(tmp_path: Path) -> None:
    plain = Image.new("RGB", (16, 16), "red")
    plain.save(tmp_path / "plain.png")
    Image.new("I;16", (16, 16)).save(tmp_path / "deep.png")
    for kind in ("png", "webp"):
        frames = [Image.new("RGB", (16, 16), "blue")]
        plain.save(tmp_path / f"moving.{kind}", save_all=True, append_images=frames, duration=9)
    rows = [
        {"source": "plain.png", "target": name, "instruction": "make it blue"}
        for name in ("plain.png", "deep.png", "moving.png", "moving.webp")
    ]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = open_pairs(str(tmp_path / "edits.jsonl"), layout="jsonl")
    assert pairs.look(0).edited == (16, 16)
    for row in (1, 2, 3):
        reasons = []
        for attempt in (pairs.look, pairs.read):
            with pytest.raises(BadPair) as raised:
                attempt(row)
            reasons.append(raised.value.reason)
        assert reasons[0] == reasons[1]
        assert ("8 bits" if row == 1 else "animated") in reasons[0]
