"""A journal survives a kill and a full disk, and has one writer."""

import errno
import io
from pathlib import Path

import pytest

from data_gen.journal import Journal


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n{"n": ')
    with Journal(path) as journal:
        assert list(journal.entries()) == [{"n": 1}, {"n": 2}]
        journal.append({"n": 3})
    with Journal(path) as journal:
        assert [entry["n"] for entry in journal.entries()] == [1, 2, 3]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"n": 1}\nnonsense\n{"n": 3}\n')
    with Journal(path) as journal, pytest.raises(ValueError, match="line 2"):
        list(journal.entries())


def test_there_is_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(ValueError, match="another process"):
        Journal(path)


def test_the_last_bytes_of_a_disk_are_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AlmostFull(io.FileIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            return super().write(data[:5])

    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append({"n": 1})
        journal._file.close()
        monkeypatch.setattr(journal, "_file", AlmostFull(path, "a"))
        with pytest.raises(OSError, match="space") as caught:
            journal.append({"n": 2})
        assert caught.value.errno == errno.ENOSPC
    with Journal(path) as journal:
        assert list(journal.entries()) == [{"n": 1}]
