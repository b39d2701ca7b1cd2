"""Verify: every kind of damage is found, all of it in one report, and nothing is found in a set
that has none."""

import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen import __main__
from data_gen.records import EditTriplet, ImageArray, ImagePair
from data_gen.runs.receipts import read_receipt, write_receipt
from data_gen.shards import INDEX_FILE, scan_shard, shard_writer, write_index
from data_gen.survey.verify import Fault, inspect
from inference.shapes import MODELS
from inference.shapes.captions import caption, describe
from inference.shapes.evaluation import draw_trials
from inference.shapes.render import render
from inference.shapes.scene import Scene


def kinds(root: Path) -> set[str]:
    return {fault.kind for fault in inspect(root, swaps=False).faults}


def first_tar(root: Path) -> Path:
    return min(root.glob("shards/*.tar"))


def rewritten(tar: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Pass every member's bytes through `change`; None drops it."""
    with tarfile.open(tar) as old:
        members = [(info, old.extractfile(info).read()) for info in old]
    with tarfile.open(tar, "w") as new:
        for info, content in members:
            if (found := change(info.name, content)) is not None:
                info.size = len(found)
                new.addfile(info, io.BytesIO(found))


def test_a_whole_set_has_no_fault(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["verify", "--data", str(published), "--swaps", "false"]) == 0
    assert "no fault" in capsys.readouterr().out


def flipped_byte(root: Path) -> None:
    tar = first_tar(root)
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)


def lost_file(root: Path) -> None:
    first_tar(root).unlink()


def lost_candidates(root: Path) -> None:
    min(root.glob("candidates/*.parquet")).unlink()


def stray_tar(root: Path) -> None:
    with shard_writer(root / "shards" / "stray.tar", {}):
        pass


def broken_receipt(root: Path) -> None:
    min(root.glob("receipts/*.json")).write_text("{")


def receipt_outside(root: Path) -> None:
    receipt = read_receipt(root / "receipts" / "00000.json")
    files = {**receipt.files, "../../etc/passwd": "0"}
    write_receipt(root, type(receipt)(**{**vars(receipt), "files": files}))


def truncated_tar(root: Path) -> None:
    tar = first_tar(root)
    tar.write_bytes(tar.read_bytes()[:-5000])


def lost_member(root: Path) -> None:
    first = [True]

    def change(name: str, content: bytes) -> bytes | None:
        lose = first[0] and name.endswith("json")
        first[0] = first[0] and not lose
        return None if lose else content

    rewritten(first_tar(root), change)


def half_image(root: Path) -> None:
    rewritten(
        first_tar(root), lambda name, b: b[: len(b) // 2] if name.endswith("edited.jpg") else b
    )


def no_json(root: Path) -> None:
    rewritten(first_tar(root), lambda name, b: b"[1" if name.endswith("json") else b)


def nan_score(root: Path) -> None:
    rewritten(first_tar(root), lambda name, b: b.replace(b"0.9,", b"NaN,"))


def another_key(root: Path) -> None:
    rewritten(first_tar(root), lambda name, b: b.replace(b'"key": "', b'"key": "x'))


def another_field(root: Path) -> None:
    first = [True]

    def change(name: str, content: bytes) -> bytes:
        if not (first[0] and name.endswith("json")):
            return content
        first[0] = False
        return content.replace(b'"branch"', b'"mood": 1, "branch"')

    rewritten(first_tar(root), change)


def same_key_twice(root: Path) -> None:
    one, other = sorted(root.glob("shards/*.tar"))
    other.write_bytes(one.read_bytes())


def index_lacks_a_row(root: Path) -> None:
    table = pq.read_table(root / INDEX_FILE)
    pq.write_table(table.slice(1), root / INDEX_FILE)


def index_has_a_row_twice(root: Path) -> None:
    table = pq.read_table(root / INDEX_FILE)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), root / INDEX_FILE)


def index_says_another_score(root: Path) -> None:
    table = pq.read_table(root / INDEX_FILE)
    place = table.schema.get_field_index("directional")
    values = [0.123, *table["directional"].to_pylist()[1:]]
    pq.write_table(table.set_column(place, "directional", [values]), root / INDEX_FILE)


def no_index(root: Path) -> None:
    (root / INDEX_FILE).unlink()


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (flipped_byte, "hash"),
        (lost_file, "hash"),
        (lost_file, "index"),
        (lost_candidates, "hash"),
        (stray_tar, "receipt"),
        (broken_receipt, "receipt"),
        (receipt_outside, "receipt"),
        (truncated_tar, "member"),
        (lost_member, "member"),
        (half_image, "image"),
        (no_json, "description"),
        (nan_score, "description"),
        (another_key, "description"),
        (another_field, "fields"),
        (same_key_twice, "duplicate"),
        (index_lacks_a_row, "index"),
        (index_has_a_row_twice, "index"),
        (index_says_another_score, "index"),
        (no_index, "index"),
    ],
)
def test_damage_is_found(published: Path, damage: Callable[[Path], None], kind: str) -> None:
    damage(published)
    assert kind in kinds(published)


def test_all_faults_come_in_one_report_and_the_exit_code_is_1(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for damage in (half_image, no_index, broken_receipt):
        damage(published)
    report = tmp_path / "faults.jsonl"
    line = ["verify", "--data", str(published), "--swaps", "false", "--report", str(report)]
    assert __main__.main(line) == 1
    found = [Fault(**json.loads(line)) for line in report.read_text().splitlines()]
    assert {"image", "index", "receipt"} <= {fault.kind for fault in found}
    assert f"{len(found)} faults" in capsys.readouterr().err


def test_no_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["verify", "--data", str(tmp_path / "none")]) == 1
    assert "holds no tar" in capsys.readouterr().err


def drawn(scene: Scene) -> ImageArray:
    return np.round(render(scene) * 255).astype(np.uint8)


@pytest.fixture
def true_pairs(make_pair: Callable[..., ImagePair]) -> list[ImagePair]:
    """Pairs of the shapes world, each picture as its caption says."""
    rng = random.Random(0)
    trials = draw_trials(("recolour", "background"), 6)
    return [
        replace(
            make_pair(
                EditTriplet.of(
                    caption=caption(describe(trial.before, rng, detail=0)),
                    instruction=trial.instruction,
                    edited_caption=caption(describe(trial.expected, rng, detail=0)),
                    edit_type=trial.edit_type,
                    inverse_instruction="undo it",
                )
            ),
            source=drawn(trial.before),
            edited=drawn(trial.expected),
        )
        for trial in trials
    ]


@pytest.mark.parametrize("given", [True, False])
def test_swapped_pairs_are_found(tmp_path: Path, true_pairs: list[ImagePair], given: bool) -> None:
    swapped = {pair.key for pair in true_pairs[::4]}
    (tmp_path / "shards").mkdir()
    tar = tmp_path / "shards" / "0.tar"
    clip = str(MODELS / "clip")
    with shard_writer(tar, {} if given else {"clip": clip}) as writer:
        for pair in true_pairs:
            images = {"source": pair.edited, "edited": pair.source}
            writer.write(replace(pair, **images) if pair.key in swapped else pair)
    write_index(tmp_path / INDEX_FILE, scan_shard(tar, "shards/0.tar"))
    faults = inspect(tmp_path, clip=clip if given else None).faults
    assert {fault.kind for fault in faults} == {"swapped"}
    assert {fault.where.split(": ")[1] for fault in faults} == swapped


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (b'"was": "x"', "they name no CLIP"),
        (
            b'"clip": "no/such/folder"',
            "another CLIP, such as 'no/such/folder', and what a data set names is not",
        ),
    ],
)
def test_what_could_not_be_looked_at_is_said(published: Path, clip: bytes, said: str) -> None:
    own = json.dumps({"clip": str(MODELS / "clip")}).encode()[1:-1]
    for tar in published.glob("shards/*.tar"):
        rewritten(tar, lambda name, b: b.replace(own, clip))
    (note,) = [note for note in inspect(published).notes if "swap" in note]
    assert note.startswith(f"{inspect(published, swaps=False).pairs} pairs were not looked at")
    assert said in note


def test_a_clip_that_was_asked_for_has_to_be_there(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["verify", "--data", str(published), "--clip", "no/such/folder"]
    assert __main__.main(line) == 1
    assert "no/such/folder" in capsys.readouterr().err
