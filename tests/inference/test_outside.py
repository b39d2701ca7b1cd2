import os
import re
from pathlib import Path

import pytest

from inference.outside import parse_json, parse_object, parse_yaml, read_object, read_text

WRITTEN = '{"caption": "a cät"}'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_with_and_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "object.json"
    path.write_text(WRITTEN, encoding=encoding)
    assert read_object(path) == {"caption": "a cät"}


def test_other_text_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("a cät".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text: byte 3 is 0xe4"):
        read_text(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_text(tmp_path / "pipe")


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"0123456789")
    with pytest.raises(ValueError, match="10 bytes; expected at most 9"):
        read_text(tmp_path / "large", max_bytes=9)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_depth_is_an_error_like_any_other(text: str) -> None:
    with pytest.raises(ValueError, match="line 7 is nested too deep"):
        parse_json(text, "line 7")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400", "-1e400", "9" * 5000])
def test_numbers_are_finite(number: str) -> None:
    with pytest.raises(ValueError, match="it is not JSON"):
        parse_json(f'{{"scale": {number}}}', "it")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[]", "list"), ('"a"', "text"), ("1", "number"), ("null", "null"), ("true", "true or false")],
)
def test_an_object_is_expected(text: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"it holds a {kind}; expected an object"):
        parse_object(text, "it")


def test_yaml_is_a_value_whose_keys_stand_once() -> None:
    assert parse_yaml("a: {b: [1, x], when: 2001-99-99}", "it") == {
        "a": {"b": [1, "x"], "when": "2001-99-99"}
    }
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", "it")["b"] == {"x": 1, "y": 2}
    assert parse_yaml("", "it") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "it, line 4: the key 'c' stands already in line 3"),
        ("? [a]\n: 1", "it, line 1: a key is a sequence; expected text"),
        ("a: &a {b: *a}", "it, line 1: a value refers to itself"),
        ("[" * 5000, "it is nested too deep"),
        ("a: {", "it is not YAML: "),
        ("a: !!python/object/apply:os.getcwd []", "it is not YAML: could not determine"),
        ("a: 1\n---\nb: 2", "it is not YAML: expected a single document"),
    ],
)
def test_other_yaml_is_told(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_yaml(text, "it")
