"""A pair's description: one validator, and every field that a reader takes is of its type."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_gen.runs.receipts import read_receipt
from data_gen.shards import INDEX_SCHEMA, ShardError, read_table
from data_gen.shards.members import SCORES, described

GOOD = {
    "key": "a-0-0",
    "group": "a",
    "caption": None,
    "instruction": "make it red",
    "edited_caption": None,
    "edit_type": "recolour",
    "inverse_instruction": None,
    "seed_index": 0,
    "branch": 0,
    "p": 0.5,
    "guidance": None,
    "scores": dict.fromkeys(SCORES),
}

RECEIPT = {
    "unit": "00000",
    "fingerprint": "a",
    "files": {},
    "prompts": {},
    "seconds": {},
    "versions": {},
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("p", "x"),
        ("p", True),
        ("guidance", 10**400),
        ("edit_type", ["a"]),
        ("caption", {"text": "a"}),
        ("instruction", 3),
        ("key", None),
        ("seed_index", 0.5),
        ("seed_index", 2**63),
        ("branch", -1),
        ("scores", []),
        ("scores", GOOD["scores"] | {"dino": "high"}),
        ("scores", GOOD["scores"] | {"beauty": 1}),
    ],
)
def test_odd_values_are_named(field: str, value: Any) -> None:
    assert described(json.dumps(GOOD).encode(), "it") == GOOD
    with pytest.raises(ShardError, match=r"it: its JSON has \w+ .*, expected"):
        described(json.dumps(GOOD | {field: value}).encode(), "it")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'[["key", 1]]', b'{"p": NaN}', b"\xff"])
def test_what_is_no_object_is_said(content: bytes) -> None:
    with pytest.raises(ShardError, match="it: its JSON describes no pair"):
        described(content, "it")


@pytest.mark.parametrize("name", ["key", "shard", "json_offset", "seed_index"])
def test_a_null_in_an_index_is_named(tmp_path: Path, name: str) -> None:
    import pyarrow.parquet as pq

    row = {item.name: "a" if item.type == pa.string() else 1 for item in INDEX_SCHEMA}
    path = tmp_path / "index.parquet"
    pq.write_table(pa.Table.from_pylist([row, row | {name: None}], schema=INDEX_SCHEMA), path)
    with pytest.raises(ShardError, match=f"row 1: {name} is null, expected a value"):
        read_table(path, INDEX_SCHEMA)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[]",
        json.dumps(RECEIPT | {"unit": 1}),
        json.dumps(RECEIPT | {"prompts": {"a": {"status": "odd", "kept": 0, "reasons": {}}}}),
        json.dumps(RECEIPT | {"prompts": {"a": {"status": "passed", "reasons": {"b": "c"}}}}),
    ],
)
def test_what_is_no_receipt_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "00000.json").write_text(content)
    with pytest.raises(ValueError, match=r"00000\.json is no receipt \(.*\): delete it"):
        read_receipt(tmp_path / "00000.json")
