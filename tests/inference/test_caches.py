"""A cache that cannot be written is told with what it is for and the variable that moves it."""

import errno
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.__main__ import main
from data_gen.shards.cache import Cache, Fetch
from inference.caches import unwritable_cache
from inference.command_line import run

VARIABLES = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"),
    *("TORCH_HOME", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def refused(path: Path, number: int = errno.EACCES) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize(
    ("place", "variable"),
    [
        (".cache/huggingface/hub/models--a/b", "HF_HUB_CACHE"),
        (".cache/huggingface/datasets/parquet", "HF_DATASETS_CACHE"),
        (".cache/huggingface/modules", "HF_HOME"),
        (".cache/torch/hub", "TORCH_HOME"),
        (".cache/clip/weights.bin", "XDG_CACHE_HOME"),
        (".triton/cache", "TRITON_CACHE_DIR"),
    ],
)
def test_a_cache_is_known_by_where_it_lies(home: Path, place: str, variable: str) -> None:
    (home / ".cache/huggingface").mkdir(parents=True)
    said = unwritable_cache(refused(home / place))
    assert said is not None
    assert said.startswith(f"{home / place} cannot be written: Permission denied; ")
    assert f" and {variable} moves it to another folder" in said


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_cache_that_was_moved_is_known_and_its_cause_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "$HOME/no/where")
    wrapped = ValueError("it cannot be loaded")
    wrapped.__cause__ = refused(home / "no", errno.EROFS)  # the first of the folders to be made
    said = unwritable_cache(wrapped)
    assert said is not None
    assert f"{home / 'no'} cannot be written: Read-only" in said
    assert f" and {variable} moves it" in said


def test_other_errors_are_none_of_a_cache(home: Path) -> None:
    assert unwritable_cache(refused(home / "out" / "a.png")) is None
    assert unwritable_cache(refused(home / ".cache/torch/a", errno.ENOENT)) is None
    assert unwritable_cache(OSError(".cache/torch")) is None


def test_a_command_says_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch() -> None:
        raise refused(home / ".cache/torch/hub")

    assert run({"fetch": fetch}, prog="x", args=["fetch"]) == 1
    assert capsys.readouterr().err.endswith(
        f"{home / '.cache/torch'} keeps weights that torch fetches, and TORCH_HOME moves it to "
        "another folder\n"
    )


def test_datasets_that_cannot_prepare_a_table_say_where(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").touch()
    cache = home / "file" / "cache"  # root may write any folder, but not below a file
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    table = pa.table({"source": [b"a"], "target": [b"b"], "instruction": ["c"]})
    pq.write_table(table, home / "edits.parquet")
    line = ["import", "--layout=columns", f"--source={home / 'edits.parquet'}"]
    assert main([*line, f"--output={home / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert "cannot be written: Not a directory" in said
    assert "HF_DATASETS_CACHE moves it to another folder" in said


def test_our_own_cache_says_what_it_is_for(home: Path) -> None:
    (home / "file").touch()
    fetch = Fetch(size=lambda: 1, fetch=lambda path: None)
    with pytest.raises(OSError, match=r"^data\.cache, for copies of remote shards: .*file is not"):
        Cache(folder=home / "file/cache", limit=9).path("a", None, fetch)
