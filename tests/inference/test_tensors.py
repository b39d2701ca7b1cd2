"""Safetensors from outside: what a hostile or broken header says is a sentence, not a crash."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from inference import tensors
from inference.tensors import parse_tensors, read_header, read_tensors, require_tensors

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def framed(header: str | dict[str, Any], data: bytes = b"\0" * 4) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a safetensors file: it has 0 bytes"),
        (b"\xff" * 8 + b"{}", "its header alone would have 18,446,744,073,709,551,615"),
        (framed("[" * 100_000), "is nested too deep"),
        (framed("[]"), "holds a list; expected an object"),
        (framed({"a": {**ENTRY, "dtype": "F4"}}), "its tensor 'a' has dtype 'F4'; expected one of"),
        (framed({"a": {**ENTRY, "dtype": []}}), "its tensor 'a' has dtype"),
        (framed({"a": {**ENTRY, "shape": "x"}}), "its tensor 'a' has shape 'x'"),
        (framed({"a": {**ENTRY, "shape": [-1]}}), r"its tensor 'a' has shape \[-1\]"),
        (framed({"a": 3}), "its tensor 'a' is described by 3; expected an object"),
        (framed({"__metadata__": {"a": 1}}), "__metadata__ of its header must map names to texts"),
        (framed({"a": ENTRY}, b""), "is not a safetensors file"),
        (framed({"a": {**ENTRY, "shape": [2]}}), "is not a safetensors file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_tensors(path, "cpu")
    with pytest.raises(ValueError, match=sentence):
        parse_tensors(content, "x")


def test_headers_and_tensors_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({name: torch.zeros(1) for name in "abc"}))
    assert read_header(path)[0] == list("abc")
    monkeypatch.setattr(tensors, "MAX_TENSORS", 2)
    with pytest.raises(ValueError, match="holds 3 tensors; expected at most 2"):
        read_header(path)
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", 8)
    with pytest.raises(ValueError, match="bytes; expected at most 8"):
        read_header(path)


def test_a_pipe_is_no_file_of_tensors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match="not a regular file"):
        read_tensors(tmp_path / "pipe.safetensors", "cpu")


def test_a_missing_tensor_is_named() -> None:
    require_tensors(["a", "b"], ["a"], "x")
    with pytest.raises(ValueError, match="x lacks the tensor b and 1 others"):
        require_tensors(["a"], ["a", "b", "c"], "x")
