"""A journal survives a kill and a full disk, and has one writer."""

import errno
import io
import threading
from pathlib import Path

import pytest

from inference.endpoints.budget import Ledger, Prices
from inference.endpoints.history import History
from inference.endpoints.journal import Journal


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


def test_there_is_one_writer_and_the_next_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, seen = tmp_path / "journal.jsonl", []

    def second() -> None:
        with Journal(path) as journal:
            seen.extend(journal.entries())

    thread = threading.Thread(target=second, daemon=True)
    with Journal(path) as journal:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        journal.append({"n": 1})
    thread.join(10)
    assert seen == [{"n": 1}]
    assert f"waiting for another process that writes {path}" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    "entry",
    [
        '{"answer": "x"}',
        '{"round": 1, "plan": ["a"]}',
        '{"form": "json_schema"}',
        '{"reserved": "a", "dollars": "much"}',
        '{"batch": "b", "requests": ["a"]}',
        '{"answer": "x", "request": "a", "usage": {"odd": 1}}',
    ],
)
def test_an_entry_of_another_kind_is_named(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{{"n": 1}}\n{entry}\n')
    ledger = Ledger(Prices(), None)
    with Journal(path) as journal, pytest.raises(ValueError, match=r"journal\.jsonl, line 2: no"):
        History(journal, ledger)
