"""Imports: every layout keeps every pair and field, and stock readers read what came of it."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

from data_gen import __main__
from data_gen.imports import pairs as imports
from data_gen.imports.config import Columns
from data_gen.imports.pairs import import_pairs
from data_gen.publishing.push import push
from data_gen.records import ImageArray, Scores
from data_gen.shards import ShardIndex
from data_gen.survey.verify import inspect


def picture(number: int) -> ImageArray:
    return np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(number: int, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Given:
    """One pair as a layout holds it."""

    caption: str
    instruction: str
    edited_caption: str
    source: bytes
    edited: bytes
    seed: int


GIVEN = [
    Given(
        caption=f"a cat number {prompt}",
        instruction=f"make it dog {prompt}",
        edited_caption=f"a dog number {prompt}",
        source=encoded(10 * prompt + seed, quality=100),
        edited=encoded(1000 + 10 * prompt + seed, quality=100),
        seed=4_000_000_000 + seed,
    )
    for prompt in range(5)
    for seed in range(1 + prompt % 3)
]


@pytest.fixture
def seeds_folder(tmp_path: Path) -> Path:
    """As generate_img_dataset.py and prepare_dataset.py leave it."""
    root = tmp_path / "clip-filtered"
    seeds: dict[str, list[str]] = {}
    for one in GIVEN:
        name = f"shard-00/{int(one.caption.split()[-1]):07d}"
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        prompt = {"input": one.caption, "edit": one.instruction, "output": one.edited_caption}
        (folder / "prompt.json").write_text(json.dumps({**prompt, "url": "somewhere"}))
        (folder / f"{one.seed}_0.jpg").write_bytes(one.source)
        (folder / f"{one.seed}_1.jpg").write_bytes(one.edited)
        line = {"p2p_threshold": 0.3, "cfg_scale": 8.5, "clip_sim_0": 0.21, "clip_sim_1": 0.22}
        line |= {"clip_sim_dir": 0.23, "clip_sim_image": 0.81}
        with (folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps({"seed": one.seed, **line}) + "\n")
        seeds.setdefault(name, []).append(str(one.seed))
    (root / "seeds.json").write_text(json.dumps(sorted(seeds.items())))
    return root


def table_of(names: dict[str, str], **more: Any) -> datasets.Dataset:
    """A data set with GIVEN under other people's names, pictures as PNG."""
    columns: dict[str, Any] = {
        theirs: [getattr(one, ours) for one in GIVEN] for ours, theirs in names.items()
    }
    table = datasets.Dataset.from_dict({**columns, **more})
    for ours in ("source", "edited"):
        table = table.cast_column(names[ours], datasets.Image())
    return table


CLIP_FILTERED = {
    "source": "original_image",
    "caption": "original_prompt",
    "instruction": "edit_prompt",
    "edited_caption": "edited_prompt",
    "edited": "edited_image",
}
MAGIC_BRUSH = {"source": "source_img", "edited": "target_img", "instruction": "instruction"}


def samples(root: Path) -> list[dict[str, bytes]]:
    """What stock webdataset reads of a set, members as bytes, sorted by key."""
    stock = webdataset.WebDataset(
        sorted(map(str, root.glob("shards/*.tar"))), shardshuffle=False, empty_check=False
    )
    members = ("__key__", "input.jpg", "edited.jpg", "json")
    found = [{name: sample[name] for name in members} for sample in stock]
    return sorted(found, key=lambda sample: sample["__key__"])


def descriptions(root: Path) -> list[dict[str, Any]]:
    return [json.loads(sample["json"]) for sample in samples(root)]


def check_pairs(root: Path) -> None:
    """Each instruction has its own source and edited picture, byte for byte, and not swapped."""
    found = [
        (one["input.jpg"], json.loads(one["json"])["instruction"], one["edited.jpg"])
        for one in samples(root)
    ]
    assert sorted(found) == sorted((one.source, one.instruction, one.edited) for one in GIVEN)


def check_published(root: Path, cache: Path) -> None:
    """Push to a folder and load it back: every pair and field, by either stock reader."""
    pushed = root.with_name("pushed")
    push(root, str(pushed), "cc-by-4.0")
    assert samples(pushed) == samples(root)
    stock = datasets.load_dataset(str(pushed), split="train", cache_dir=str(cache))
    loaded = {
        row["__key__"]: row for row in stock.cast_column("input.jpg", datasets.Image(decode=False))
    }
    assert len(loaded) == len(stock) == len(samples(root))
    for sample in samples(root):
        row = loaded[str(sample["__key__"])]
        assert row["json"] == json.loads(sample["json"])
        assert row["input.jpg"]["bytes"] == sample["input.jpg"]
        assert np.array_equal(
            np.asarray(row["edited.jpg"]), np.asarray(Image.open(io.BytesIO(sample["edited.jpg"])))
        )


def check_stock_datasets(root: Path, cache: Path, count: int) -> None:
    stock = datasets.load_dataset(
        "webdataset", data_files=str(root / "shards/*.tar"), split="train", cache_dir=str(cache)
    )
    assert len(stock) == count
    fields = [frozenset(row["json"]) for row in stock.select_columns(["json"])]
    assert len(set(fields)) == 1


def test_instruct_pix2pix_s_own_layout(seeds_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ["import", "--layout", "instruct-pix2pix", "--source", str(seeds_folder)]
    assert __main__.main([*line, "--output", str(out), "--unit_size", "2"]) == 0
    index = ShardIndex(out)
    assert len(index) == len(GIVEN)
    assert len(set(index.groups)) == 5
    by_seed = {(index[i].group, index[i].seed_index): index.read(i) for i in range(len(index))}
    texts = {pair.triplet.instruction: pair.triplet for pair in by_seed.values()}
    for one in GIVEN:
        triplet = texts[one.instruction]
        pair = by_seed[triplet.id, one.seed]
        assert (triplet.caption, triplet.edited_caption) == (one.caption, one.edited_caption)
        assert (pair.p, pair.guidance) == (0.3, 8.5)
        assert pair.scores == Scores(
            image_image=0.81, text_source=0.21, text_edited=0.22, directional=0.23
        )
    for sample in samples(out):
        (one,) = [one for one in GIVEN if one.source == sample["input.jpg"]]  # their very bytes
        assert sample["edited.jpg"] == one.edited
        said = json.loads(sample["json"])
        assert (said["seed_index"], said["caption"]) == (one.seed, one.caption)
        assert json.loads(said["provenance"]["extra"]) == {"url": "somewhere"}
    assert inspect(out).faults == []
    check_stock_datasets(out, tmp_path / "cache", len(GIVEN))
    check_published(out, tmp_path / "cache")


def test_a_rerun_of_theirs_appends_and_the_last_line_of_a_seed_counts(
    seeds_folder: Path, tmp_path: Path
) -> None:
    folder = seeds_folder / "shard-00/0000000"
    line = json.loads((folder / "metadata.jsonl").read_text())
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps(line | {"p2p_threshold": 0.7}) + "\n")
    import_pairs("instruct-pix2pix", tmp_path / "out", str(seeds_folder))
    (found,) = [one for one in descriptions(tmp_path / "out") if one["caption"].endswith("0")]
    assert found["p"] == 0.7


def test_a_jsonl_beside_its_pictures(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    (root / "in").mkdir(parents=True)
    lines = []
    for number, one in enumerate(GIVEN):
        (root / f"in/{number}.jpg").write_bytes(one.source)
        (root / f"{number}.png").write_bytes(encoded(2000 + number, "PNG"))
        line = {"source": f"in/{number}.jpg", "target": f"{number}.png", "mood": [1, "x"]}
        lines.append({**line, "instruction": one.instruction})
    (root / "edits.jsonl").write_text("\r\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    line = ["import", "--layout", "jsonl", "--source", str(root / "edits.jsonl")]
    assert __main__.main([*line, "--output", str(out)]) == 0
    found = {sample["input.jpg"]: sample for sample in samples(out)}
    for number, one in enumerate(GIVEN):
        sample = found[one.source]
        said = json.loads(sample["json"])
        assert said["instruction"] == one.instruction
        assert json.loads(said["provenance"]["extra"]) == {"mood": [1, "x"]}
        assert said["provenance"]["where"] == f"line {number + 1}"
        for unknown in ("caption", "edited_caption", "edit_type", "inverse_instruction", "p"):
            assert said[unknown] is None
        assert set(said["scores"].values()) == {None}
        edited = np.asarray(Image.open(io.BytesIO(sample["edited.jpg"]))).astype(int)
        assert np.abs(edited - picture(2000 + number)).mean() < 4  # PNG became JPEG 95 4:4:4
    assert len(set(ShardIndex(out).groups)) == len(GIVEN)  # without captions, a source a group
    assert ShardIndex(out).read(0).scores is None
    assert inspect(out).faults == []
    check_stock_datasets(out, tmp_path / "cache", len(GIVEN))
    check_published(out, tmp_path / "cache")


def test_columns_of_a_parquet_file(tmp_path: Path) -> None:
    names = {"source": "a", "edited": "b", "instruction": "todo", "caption": "caption"}
    sessions = [None if number < 2 else number // 2 for number in range(len(GIVEN))]
    table_of(names, session=sessions).to_parquet(str(tmp_path / "x.parquet"))
    out = tmp_path / "out"
    line = ["import", "--layout", "columns", "--source", str(tmp_path / "x.parquet")]
    line += ["--columns.source", "a", "--columns.edited", "b", "--columns.instruction", "todo"]
    assert __main__.main([*line, "--columns.group", "session", "--output", str(out)]) == 0
    assert len(ShardIndex(out)) == len(GIVEN)
    assert len(set(ShardIndex(out).groups)) == 2 + len(set(sessions) - {None})
    assert {one["caption"] for one in descriptions(out)} == {one.caption for one in GIVEN}
    check_pairs(out)


def test_magic_brush(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of(
        MAGIC_BRUSH,
        img_id=[str(one.seed) for one in GIVEN],
        turn_index=[number % 3 + 1 for number in range(len(GIVEN))],
        mask_img=[one.source for one in GIVEN],
    ).cast_column("mask_img", datasets.Image())
    (tmp_path / "copy" / "data").mkdir(parents=True)
    table.to_parquet(str(tmp_path / "copy" / "data" / "train-00000-of-00001.parquet"))
    import_pairs("magicbrush", tmp_path / "out", str(tmp_path / "copy"))
    assert "the images of 'mask_img' are left out" in capsys.readouterr().out
    found = descriptions(tmp_path / "out")
    check_pairs(tmp_path / "out")
    extras = {one["provenance"]["where"]: json.loads(one["provenance"]["extra"]) for one in found}
    assert extras == {
        f"row {number}": {"img_id": str(one.seed), "turn_index": number % 3 + 1}
        for number, one in enumerate(GIVEN)
    }
    check_stock_datasets(tmp_path / "out", tmp_path / "cache", len(GIVEN))
    check_published(tmp_path / "out", tmp_path / "cache")


def test_instructpix2pix_clip_filtered(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    table_of(CLIP_FILTERED).to_parquet(str(tmp_path / "copy" / "train.parquet"))
    import_pairs("instructpix2pix-clip-filtered", tmp_path / "out", str(tmp_path / "copy"))
    found = {
        (one["caption"], one["instruction"], one["edited_caption"])
        for one in descriptions(tmp_path / "out")
    }
    assert found == {(one.caption, one.instruction, one.edited_caption) for one in GIVEN}
    check_pairs(tmp_path / "out")
    index = ShardIndex(tmp_path / "out")
    assert (len(index), len(set(index.groups))) == (len(GIVEN), 5)  # one group a prompt
    check_published(tmp_path / "out", tmp_path / "cache")


def test_texts_that_some_rows_lack_do_not_confuse_stock_datasets(tmp_path: Path) -> None:
    lines = []
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(number))
        line = {"source": f"{number}.jpg", "target": f"{(number + 1) % 20}.jpg"}
        line |= {"instruction": f"do {number}"}
        lines.append(line | ({"caption": f"a thing {number}"} if number % 10 == 3 else {}))
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    import_pairs("jsonl", tmp_path / "out", str(tmp_path / "x.jsonl"))
    check_stock_datasets(tmp_path / "out", tmp_path / "cache", 20)
    check_published(tmp_path / "out", tmp_path / "cache")
    assert not [note for note in inspect(tmp_path / "out", swaps=False).notes if "null" in note]


def test_an_interrupted_import_goes_on_and_ends_the_same(
    seeds_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_pairs("instruct-pix2pix", tmp_path / "whole", str(seeds_folder), unit_size=2)
    original, calls = imports._write, []

    def broken(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(imports, "_write", broken)
    with pytest.raises(KeyboardInterrupt):
        import_pairs("instruct-pix2pix", tmp_path / "again", str(seeds_folder), unit_size=2)
    assert not (tmp_path / "again/index.parquet").exists()
    import_pairs("instruct-pix2pix", tmp_path / "again", str(seeds_folder), unit_size=2)
    assert len(calls) == 4  # one made, one interrupted, that one and the last made

    def files(root: Path) -> dict[str, bytes]:
        paths = [*root.glob("shards/*.tar"), root / "index.parquet"]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}

    assert files(tmp_path / "whole") == files(tmp_path / "again")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("--layout", "jsonl", "--source", "none.jsonl"), "there is no file none.jsonl"),
        (("--layout", "instruct-pix2pix", "--source", "none"), "there is no none/seeds.json"),
        (("--layout", "jsonl"), "needs a source"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["import", *line, "--output", "out"]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_units_hold_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["import", "--layout", "jsonl", "--source", "x", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        __main__.main([*line, "--unit_size", "0"])
    assert ended.value.code == 2
    assert "--unit_size is 0; expected a whole number from 1 to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"source": "a", "target": "b", "edit": "c"}\n')
    with pytest.raises(ValueError, match=r"no column \['instruction'\], but \['edit', 'source'"):
        import_pairs("jsonl", tmp_path / "out", str(tmp_path / "x.jsonl"))


def test_another_data_set_is_not_overwritten(published: Path, seeds_folder: Path) -> None:
    with pytest.raises(ValueError, match="holds a data set that was not imported"):
        import_pairs("instruct-pix2pix", published, str(seeds_folder))
    assert inspect(published, swaps=False).faults == []


def test_another_import_is_not_overwritten(seeds_folder: Path, tmp_path: Path) -> None:
    import_pairs("instruct-pix2pix", tmp_path / "out", str(seeds_folder))
    with pytest.raises(ValueError, match="holds the import"):
        import_pairs("columns", tmp_path / "out", "elsewhere", Columns())


def test_a_damaged_table_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    line = ["import", "--layout", "columns", "--source", str(tmp_path / "x.parquet")]
    assert __main__.main([*line, "--output", str(tmp_path / "out")]) == 1
    assert "x.parquet cannot be loaded" in capsys.readouterr().err
