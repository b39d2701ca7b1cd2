"""Latents are read as warily as pictures: what is odd in one pair is said of it alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_gen.imports.reading import BadPair
from data_gen.shards import INDEX_FILE, ShardError, shard_writer
from training.data.config import Framing
from training.data.inspection import inspect
from training.data.latent_shards import SCHEMA, TEXTS, About, LatentPairs, packed, scan, write_index

ABOUT = About(vae="abc", scaling_factor=0.18, framing=Framing(), variations=2)
GOOD = {"key": "a-0-0", "group": "a"} | dict.fromkeys(TEXTS, "make it red")
TENSORS = {
    **{
        f"{image}.{part}": torch.zeros(2, 4, 2, 2, dtype=torch.float16)
        for image in ("source", "edited")
        for part in ("mean", "deviation")
    },
    "sizes": torch.zeros(2, 6, dtype=torch.int64),
}


def written(
    root: Path,
    description: object = GOOD,
    tensors: dict[str, torch.Tensor] | None = None,
    **cells: Any,
) -> Path:
    """A set of three pairs, of which the second is odd; `cells` are of its row in the index."""
    tar = root / "shards" / "0.tar"
    tar.parent.mkdir(parents=True)
    with shard_writer(tar, {}) as writer:
        for number in range(3):
            odd = number == 1
            said = description if odd else GOOD
            member = TENSORS if tensors is None or not odd else tensors
            writer.copy(
                f"k{number}",
                {"safetensors": packed(member), "json": json.dumps(said).encode()},
            )
    rows = [
        {"key": key, "group": key, "shard": "shards/0.tar", "height": 16, "width": 16, **places}
        for key, places in scan(tar).items()
    ]
    rows[1] |= cells
    write_index(root / INDEX_FILE, pa.Table.from_pylist(rows, schema=SCHEMA), ABOUT, {})
    return root


def faults(root: Path) -> dict[int, str]:
    found = inspect(LatentPairs(str(root)), np.arange(3), Framing(), quiet=True)
    return {row: f"{fault.reason}: {fault.detail}" for row, fault in found.faults.items()}


def test_a_null_text_is_an_unknown_one(tmp_path: Path) -> None:
    root = written(tmp_path, GOOD | {"caption": None, "inverse_instruction": None})
    assert faults(root) == {}
    texts, _ = LatentPairs(str(root)).latents(1)
    assert texts["caption"] == texts["inverse_instruction"] == ""


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (GOOD | {"instruction": {"text": "make it red"}}, "its JSON has instruction {'text'"),
        (GOOD | {"inverse_instruction": 3}, "its JSON has inverse_instruction 3"),
        (GOOD | {"caption": ["a"]}, "its JSON has caption ['a']"),
        (GOOD | {"key": None}, "its JSON has key None"),
        ({"key": "a", "group": "a"}, "its JSON lacks ['caption', 'edited_caption', 'ins"),
        ([], "its JSON describes no pair: it holds a list"),
    ],
)
def test_an_odd_description_is_one_bad_pair(tmp_path: Path, description: object, said: str) -> None:
    found = faults(written(tmp_path, description))
    assert list(found) == [1]
    assert found[1].startswith(f"it is damaged: it: {said}")


def test_a_pair_that_comes_twice_is_counted(tmp_path: Path) -> None:
    assert faults(written(tmp_path, key="k0")) == {
        1: "it comes twice: first as shards/0.tar, k0 of a-0-0"
    }


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"source.mean": torch.zeros(1, 4, 2, 2)}, "its latents are"),
        ({"source.mean": torch.zeros(2, 4, 2, 2, dtype=torch.int64)}, "its latents are"),
        ({name: torch.zeros(4) for name in TENSORS if name != "sizes"}, "its latents are"),
        ({"sizes": torch.zeros(2, 6)}, "its sizes are"),
        ({"sizes": torch.zeros(1, 6, dtype=torch.int64)}, "its sizes are"),
        ({"more": torch.zeros(1)}, "it holds"),
    ],
)
def test_odd_tensors_are_one_bad_pair(
    tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
) -> None:
    reader = LatentPairs(str(written(tmp_path, tensors=TENSORS | tensors)))
    with pytest.raises(BadPair, match=f"it is damaged: shards/0.tar, k1 of a-0-0: {said}"):
        reader.latents(1)
    assert reader.latents(0)[1].keys() == TENSORS.keys()


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"shard": None}, "row 1: shard is null"),
        ({"latents_offset": None}, "row 1: latents_offset is null"),
        ({"height": 0}, "row 1: height is 0, expected at least 1"),
    ],
)
def test_an_odd_row_of_the_index_is_named(tmp_path: Path, cells: dict[str, Any], said: str) -> None:
    with pytest.raises(ShardError, match=rf"index\.parquet, {said}"):
        LatentPairs(str(written(tmp_path, **cells)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vae": 3}, "vae is 3"),
        ({"scaling_factor": "x"}, "scaling_factor is 'x'"),
        ({"variations": 0}, "variations is 0"),
        ({"framing": []}, "described by"),
        ({"framing": {"resolution": "x"}}, "resolution is 'x'"),
        ({"more": 1}, "described by"),
    ],
)
def test_what_latents_are_of_is_checked(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path) / INDEX_FILE
    about = json.dumps(json.loads(ABOUT.to_json()) | change)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"latents": about}), path)
    with pytest.raises(ShardError, match=said):
        LatentPairs(str(tmp_path))


def test_an_index_that_is_none_is_said(tmp_path: Path) -> None:
    path = written(tmp_path) / INDEX_FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ShardError, match="no parquet file, or is truncated"):
        LatentPairs(str(tmp_path))
