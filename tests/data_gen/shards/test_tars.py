"""Shards: equal bytes for equal pairs, readable by stock readers, and not trusted."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from data_gen.records import EditTriplet, ImagePair
from data_gen.shards import (
    INDEX_FILE,
    ShardError,
    ShardIndex,
    read_pair,
    scan_shard,
    shard_writer,
    write_index,
)
from data_gen.shards.members import decode_image, encode_jpeg

MakePair = Callable[..., ImagePair]


@pytest.fixture
def pairs(triplets: list[EditTriplet], make_pair: MakePair) -> list[ImagePair]:
    return [make_pair(triplet, seed) for triplet in triplets[:3] for seed in range(2)]


@pytest.fixture
def root(tmp_path: Path, pairs: list[ImagePair]) -> Path:
    """A published data set of one shard."""
    (tmp_path / "shards").mkdir()
    shard = tmp_path / "shards" / "00000.tar"
    with shard_writer(shard, {"model": "none"}) as writer:
        writer.write(*pairs)
    write_index(tmp_path / INDEX_FILE, scan_shard(shard, "shards/00000.tar"))
    return tmp_path


def test_equal_pairs_make_equal_bytes(root: Path, pairs: list[ImagePair]) -> None:
    with shard_writer(root / "again.tar", {"model": "none"}) as writer:
        writer.write(*pairs)
    assert (root / "again.tar").read_bytes() == (root / "shards" / "00000.tar").read_bytes()


def test_the_index_reads_back_what_was_written(root: Path, pairs: list[ImagePair]) -> None:
    index = ShardIndex(root)
    index.require_complete()
    assert index.groups == [pair.triplet.id for pair in pairs]
    for position, pair in enumerate(pairs):
        found = index.read(position)
        for image in ("source", "edited"):
            expected = decode_image(encode_jpeg(getattr(pair, image)), "")
            assert np.array_equal(getattr(found, image), expected)
            assert getattr(found, image).shape == getattr(pair, image).shape
        assert (found.key, found.triplet, found.scores) == (pair.key, pair.triplet, pair.scores)
        assert (found.p, found.guidance) == (pair.p, pair.guidance)


def test_images_are_not_chroma_subsampled(pairs: list[ImagePair]) -> None:
    with Image.open(io.BytesIO(encode_jpeg(pairs[0].source))) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_stock_webdataset_reads_a_shard(root: Path, pairs: list[ImagePair]) -> None:
    stock = webdataset.WebDataset(
        str(root / "shards" / "00000.tar"), shardshuffle=False, empty_check=False
    )
    found = list(stock.decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [pair.key for pair in pairs]
    assert found[0]["json"]["instruction"] == pairs[0].triplet.instruction
    assert np.array_equal(found[0]["edited.jpg"], ShardIndex(root).read(0).edited)


def test_stock_datasets_reads_a_shard(
    root: Path, pairs: list[ImagePair], tmp_path_factory: pytest.TempPathFactory
) -> None:
    stock = datasets.load_dataset(
        "webdataset",
        data_files=str(root / "shards" / "*.tar"),
        split="train",
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    assert stock["__key__"] == [pair.key for pair in pairs]
    assert stock[0]["json"]["scores"]["directional"] == pairs[0].scores.directional
    assert np.array_equal(np.asarray(stock[0]["input.jpg"]), ShardIndex(root).read(0).source)


def test_a_pair_without_scores_is_refused(tmp_path: Path, pairs: list[ImagePair]) -> None:
    unscored = dataclasses.replace(pairs[0], scores=None)
    with (
        shard_writer(tmp_path / "x.tar", {}) as writer,
        pytest.raises(ValueError, match="has no scores"),
    ):
        writer.write(unscored)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_truncated_shard_is_named(root: Path, share: float) -> None:
    index, shard = ShardIndex(root), root / "shards" / "00000.tar"
    end = index[len(index) - 1].json_offset + index[len(index) - 1].json_size
    shard.write_bytes(shard.read_bytes()[: int(share * end)])
    with pytest.raises(ShardError, match=r"00000\.tar is truncated"):
        index.require_complete()
    with pytest.raises(ShardError, match=r"00000\.tar is truncated"):
        index.read(len(index) - 1)
    with pytest.raises(ShardError, match=r"00000\.tar.*truncated"):
        scan_shard(shard, "shards/00000.tar")


def test_another_shard_under_the_same_name_is_noticed(root: Path, pairs: list[ImagePair]) -> None:
    index = ShardIndex(root)
    with shard_writer(root / "shards" / "00000.tar", {"model": "none"}) as writer:
        writer.write(*reversed(pairs))
    with pytest.raises(ShardError, match="is not what was indexed"):
        index.read(0)


@pytest.mark.parametrize("name", ["/etc/passwd.tar", "../shards/00000.tar", "shards/00000.pkl"])
def test_an_index_does_not_lead_out_of_the_data_set(root: Path, name: str) -> None:
    row = dataclasses.replace(ShardIndex(root)[0], shard=name)
    with pytest.raises(ShardError, match="no tar below it"):
        read_pair(root, row)


def _tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def _info(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (_info("a.pkl"), "expected regular files"),
        (_info("../a.json"), "expected regular files"),
        (_info("a.json", tarfile.SYMTYPE), "expected regular files"),
        (_info("a.json", tarfile.DIRTYPE), "expected regular files"),
        (_info("a.json"), r"expected \['edited.jpg'"),
    ],
)
def test_foreign_members_are_refused(tmp_path: Path, member: tarfile.TarInfo, said: str) -> None:
    with pytest.raises(ShardError, match=said):
        scan_shard(_tar(tmp_path / "x.tar", member), "x.tar")


def test_a_key_does_not_come_twice(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="twice"):
        scan_shard(_tar(tmp_path / "x.tar", _info("a.json"), _info("a.json")), "x.tar")


def test_damaged_images_and_indices_are_errors(root: Path, pairs: list[ImagePair]) -> None:
    jpeg = encode_jpeg(pairs[0].source)
    png = io.BytesIO()
    Image.fromarray(pairs[0].source).save(png, "PNG")
    for content in (b"", jpeg[: len(jpeg) // 2], png.getvalue()):
        with pytest.raises(ShardError, match="no JPEG, or is damaged"):
            decode_image(content, "x")
    index = root / INDEX_FILE
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(ShardError, match="no parquet file, or is truncated"):
        ShardIndex(root)


def test_pixels_are_counted_before_they_are_decoded(pairs: list[ImagePair]) -> None:
    jpeg = encode_jpeg(pairs[0].source)
    start = jpeg.index(b"\xff\xc0") + 5  # height and width of the frame header
    with pytest.raises(ShardError, match=r"pixels|damaged"):
        decode_image(jpeg[:start] + b"\xff\xff\xff\xff" + jpeg[start + 4 :], "x")


def test_descriptions_carry_where_a_pair_comes_from(root: Path) -> None:
    row = ShardIndex(root)[0]
    content = (root / row.shard).read_bytes()[row.json_offset :][: row.json_size]
    assert json.loads(content)["provenance"] == {"model": "none"}


def test_an_index_older_than_a_score_is_read(root: Path) -> None:
    whole = ShardIndex(root)
    older = pq.read_table(root / INDEX_FILE).drop_columns(["dino", "unsafe", "judge"])
    pq.write_table(older, root / INDEX_FILE)
    assert [ShardIndex(root)[place] for place in range(len(whole))] == [
        whole[place] for place in range(len(whole))
    ]
    pq.write_table(older.drop_columns(["directional"]), root / INDEX_FILE)
    with pytest.raises(ShardError, match="has the columns"):
        ShardIndex(root)
