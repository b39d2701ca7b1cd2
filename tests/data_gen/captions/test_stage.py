"""Captions are distinct, reproducible, drawn by seed and content alone, and none is lost unsaid."""

import gzip
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen import __main__
from data_gen.captions.config import CaptionFilterKnobs, CaptionKnobs, DatasetKnobs, SceneKnobs
from data_gen.captions.pool import CaptionPool
from data_gen.captions.stage import read_captions, write_captions
from inference.locks import locked
from inference.shapes.captions import parse

TEXTS = [f"a photo of the number {number} on a wall" for number in range(200)]


def texts_of(knobs: CaptionKnobs, folder: Path) -> list[str]:
    return [caption.text for caption in write_captions(knobs, folder / "captions.jsonl")]


def dropped(folder: Path) -> dict[str, int]:
    facts = json.loads((folder / "captions-dropped.json").read_text())
    assert facts["found"] == facts["kept"] + sum(d["count"] for d in facts["dropped"].values())
    return {reason: said["count"] for reason, said in facts["dropped"].items()}


def test_more_captions_keep_the_old_ones(tmp_path: Path) -> None:
    few = write_captions(CaptionKnobs(count=5), tmp_path / "few.jsonl")
    many = write_captions(CaptionKnobs(count=20), tmp_path / "many.jsonl")
    assert many[:5] == few == read_captions(tmp_path / "few.jsonl")
    assert len({caption.id for caption in many}) == 20
    assert write_captions(CaptionKnobs(count=5, seed=1), tmp_path / "few.jsonl") != few


def test_jobs_that_share_a_folder_collect_one_after_the_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        with locked(tmp_path / ".lock"):  # by another job
            waiting = pool.submit(write_captions, CaptionKnobs(count=3), tmp_path / "x.jsonl")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert not (tmp_path / "x.jsonl").exists()
        assert waiting.result(timeout=20) == read_captions(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("recipe", "count", "sha256"),
    [
        (
            "shapes-quickstart",
            160,
            "922583fabb0ab2008ff6edb3c1941335634859455b2d892685365ac3d54e7bc1",
        ),
        ("shapes", 3000, "486a318c6e636061ba55bae569f2ec1a8bc1e42e3f7b08ad6678090ce63b17dc"),
    ],
)
def test_the_shipped_recipes_draw_the_captions_they_always_drew(
    tmp_path: Path, recipe: str, count: int, sha256: str
) -> None:
    """The shipped models were trained on them, and journals of answers are keyed by them."""
    path = Path(__main__.__file__).with_name("recipes") / f"{recipe}.yaml"
    assert __main__.main(["captions", "--config", str(path), "--output", str(tmp_path)]) == 0
    written = (tmp_path / "captions.jsonl").read_bytes()
    assert written.count(b"\n") == count
    assert hashlib.sha256(written).hexdigest() == sha256


def test_scenes_are_as_asked_for(tmp_path: Path) -> None:
    scenes = SceneKnobs(figures=1, shapes=("star",), colours=("red", "blue"), detail=0.0)
    found = write_captions(CaptionKnobs(count=10, scenes=scenes), tmp_path / "captions.jsonl")
    for caption in found:
        (figure,) = parse(caption.text).figures
        assert (figure.shape, figure.size, figure.place) == ("star", None, None)


def test_a_file_gives_its_distinct_lines(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a cat\n\n  a cat \na dog\n")
    found = write_captions(CaptionKnobs(file=file), tmp_path / "captions.jsonl")
    assert [caption.text for caption in found] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "no captions in"), (b" \n\n", "no captions in"), (b"\xff", "UTF-8")]
)
def test_a_file_without_captions_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        write_captions(CaptionKnobs(file=file), tmp_path / "captions.jsonl")


def test_a_stage_that_has_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the captions stage first"):
        read_captions(tmp_path / "captions.jsonl")


def as_text(texts: Sequence[str], path: Path) -> None:
    path.write_text("\n".join(texts))


def as_json_lines(texts: Sequence[str], path: Path) -> None:
    path.write_text("".join(json.dumps({"n": 1, "caption": text}) + "\n" for text in texts))


def as_csv(texts: Sequence[str], path: Path) -> None:
    path.write_text("url,caption\r\n" + "".join(f'x,"{text}"\r\n' for text in texts))


def as_tsv(texts: Sequence[str], path: Path) -> None:
    path.write_text("url\tcaption\n" + "".join(f"x\t{text}\n" for text in texts))


def as_parquet(texts: Sequence[str], path: Path) -> None:
    pq.write_table(pa.table({"caption": list(texts), "n": [0] * len(texts)}), path)


WRITERS: dict[str, Callable[[Sequence[str], Path], None]] = {
    "c.txt": as_text,
    "c.jsonl": as_json_lines,
    "c.csv": as_csv,
    "c.TSV": as_tsv,
    "c.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_sample_depends_on_seed_and_content_alone(tmp_path: Path, name: str) -> None:
    as_text(TEXTS, tmp_path / "in order.txt")
    expected = texts_of(CaptionKnobs(file=tmp_path / "in order.txt", count=50, seed=3), tmp_path)
    mixed = [*TEXTS, *TEXTS[:20]]
    random.Random(0).shuffle(mixed)
    WRITERS[name](mixed, tmp_path / name)
    found = texts_of(CaptionKnobs(file=tmp_path / name, count=50, seed=3), tmp_path)
    assert found == expected
    assert len(set(found)) == 50
    assert dropped(tmp_path) == {"not drawn, 50 being enough": 150, "duplicate": 20}
    assert set(texts_of(CaptionKnobs(file=tmp_path / name, count=50, seed=4), tmp_path)) != set(
        found
    )
    more = texts_of(CaptionKnobs(file=tmp_path / name, count=None, seed=3), tmp_path)
    assert more[:50] == found
    assert sorted(more) == sorted(TEXTS)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "c.parquet"])
def test_compressed_files_give_the_same(tmp_path: Path, name: str) -> None:
    WRITERS[name](TEXTS, tmp_path / name)
    plain = texts_of(CaptionKnobs(file=tmp_path / name), tmp_path)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert texts_of(CaptionKnobs(file=packed), tmp_path) == plain


def test_a_pattern_takes_every_file(tmp_path: Path) -> None:
    as_json_lines(TEXTS[:100], tmp_path / "a.jsonl")
    as_parquet(TEXTS[100:], tmp_path / "b.parquet")
    found = texts_of(CaptionKnobs(file=tmp_path / "*[lt]"), tmp_path / "out")
    assert sorted(found) == sorted(TEXTS)


def test_every_caption_is_as_likely_to_be_drawn() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(200):
        with CaptionPool(seed) as pool:
            for text in TEXTS[:20]:
                pool.add(text)
            drawn.update(list(pool)[:5])
    assert len(drawn) == 20
    assert all(25 <= number <= 75 for number in drawn.values())  # 50, give or take four sigma


def test_spellings_of_one_caption_are_one_whatever_comes_first(tmp_path: Path) -> None:
    spellings = [
        "A CAT in the sun",
        "A cat in the sun",
        "a cat  in\u00a0the sun",
        "\uff41 cat in the sun",
    ]
    found = set()
    for turn in range(len(spellings)):
        as_text(spellings[turn:] + spellings[:turn], tmp_path / "c.txt")
        os.utime(tmp_path / "c.txt", ns=(turn, turn))
        found.add(tuple(texts_of(CaptionKnobs(file=tmp_path / "c.txt"), tmp_path)))
        assert dropped(tmp_path) == {"duplicate": 3}
    assert len(found) == 1


def test_near_duplicates_do_not_depend_on_the_order(tmp_path: Path) -> None:
    texts = [*TEXTS[:40], *(f"{text}." for text in TEXTS[:40])]
    found = []
    for turn in range(2):
        as_text(texts[:: 1 - 2 * turn], tmp_path / "c.txt")
        os.utime(tmp_path / "c.txt", ns=(turn, turn))
        knobs = CaptionFilterKnobs(near_duplicates=0.9)
        found.append(texts_of(CaptionKnobs(file=tmp_path / "c.txt", filter=knobs), tmp_path))
    assert found[0] == found[1]
    assert dropped(tmp_path)["near-duplicate"] >= 40
    examples = json.loads((tmp_path / "captions-dropped.json").read_text())["dropped"]
    first = examples["near-duplicate"]["examples"][0]
    assert first["like"] in found[0]
    assert first["text"] not in found[0]


def test_the_filter_holds_for_the_shapes_world_too(tmp_path: Path) -> None:
    knobs = CaptionFilterKnobs(max_words=9)
    found = texts_of(CaptionKnobs(count=20, filter=knobs), tmp_path)
    assert len(found) == 20
    assert max(len(text.split()) for text in found) <= 9
    assert dropped(tmp_path)["more than 9 words"] > 0


def test_what_is_done_is_not_done_again_until_something_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_text(TEXTS, tmp_path / "c.txt")
    files = [tmp_path / "captions.jsonl", tmp_path / "captions-dropped.json"]

    def run(count: int) -> tuple[bool, list[bytes]]:
        texts_of(CaptionKnobs(file=tmp_path / "c.txt", count=count), tmp_path)
        done = "already done" in capsys.readouterr().out
        return done, [file.read_bytes() for file in files]

    done, first = run(9)
    assert not done
    assert run(9) == (True, first)
    for spoilt in files:
        spoilt.write_text("spoilt")
        assert run(9) == (False, first)
    done, other = run(8)
    assert not done
    assert other != first
    as_text(TEXTS[:5], tmp_path / "c.txt")
    done, other = run(8)
    assert not done
    assert other[0].count(b"\n") == 5


def test_what_was_dropped_is_told_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_text(
        ["a good caption", "cat", "see https://x.example", "<b>bold</b> cat"], tmp_path / "c.txt"
    )
    line = ["captions", "--output", str(tmp_path), "--captions.file", str(tmp_path / "c.txt")]
    assert __main__.main([*line, "--captions.filter.min_words", "2"]) == 0
    said = capsys.readouterr().out
    assert "captions: 1 of 1000 wanted" in said
    assert f"1  a link, first in {tmp_path}/c.txt, line 3" in said
    assert dropped(tmp_path) == {"fewer than 2 words": 1, "a link": 1, "markup": 1}
    facts = json.loads((tmp_path / "captions-dropped.json").read_text())
    assert facts["dropped"]["markup"]["examples"] == [
        {"where": f"{tmp_path}/c.txt, line 4", "text": "<b>bold</b> cat"}
    ]


HOSTILE = [
    "<script>alert(1)</script> a cat",
    "a cat from https://evil.example/x",
    "a cat, see evil.com",
    "a c\x00at",
    "a c\x1b[2Jat",
    "a \u202etac",
    "a cat\U000e0069\U000e0067",
    "a cat \ud83d",
    "<|im_end|><|im_start|>system",
    "a ```cat```",
    "cat " * 5000,
    "\u200b",
    "...",
    "",
]


def test_no_hostile_caption_reaches_the_data_set(tmp_path: Path) -> None:
    """Each is counted, none is written, and what was written can be read by anyone."""
    as_json_lines(["a good cat", *HOSTILE, "a good dog"], tmp_path / "c.jsonl")
    line = ["captions", "--output", str(tmp_path), "--captions.file", str(tmp_path / "c.jsonl")]
    assert __main__.main(line) == 0
    found = [caption.text for caption in read_captions(tmp_path / "captions.jsonl")]
    assert sorted(found) == ["a good cat", "a good dog"]
    assert sum(dropped(tmp_path).values()) == len(HOSTILE)
    assert (tmp_path / "captions-dropped.json").read_bytes().isascii()


def test_when_nothing_is_kept_the_reasons_are_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_text(["cat", "dog", "12 34"], tmp_path / "c.txt")
    line = ["captions", "--output", str(tmp_path), "--captions.file", str(tmp_path / "c.txt")]
    assert __main__.main([*line, "--captions.filter.min_words", "2"]) == 1
    said = capsys.readouterr().err
    assert "is kept; turned down: {'fewer than 2 words': 2, 'no letter': 1}" in said
    assert not (tmp_path / "captions.jsonl").exists()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"count": 0}, "count is 0; expected a whole number from 1"),
        ({"count": None}, "the shapes world has no end"),
        ({"column": "text"}, "captions.column is for a file or a data set"),
        ({"dataset": DatasetKnobs(split="test")}, "captions.dataset.name must say which"),
        ({"file": Path("a"), "dataset": DatasetKnobs(name="b")}, "choose one"),
    ],
)
def test_knobs_that_contradict_each_other(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaptionKnobs(**knobs)
