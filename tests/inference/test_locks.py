"""A folder has one owner at a time, which is known by name and lets go when it dies."""

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference.locks import Occupied, owned

OWNER = """
import sys
from pathlib import Path
from inference.locks import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_the_first_is_until_that_dies(tmp_path: Path) -> None:
    line = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(line, stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        told = rf"{tmp_path} is in use by process {owner.pid} on \S+ since 20\S+: wait for it"
        with pytest.raises(Occupied, match=told), owned(tmp_path):
            pass
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with owned(tmp_path):
            pass


def test_shares_have_owners_of_their_own(tmp_path: Path) -> None:
    first, second = owned(tmp_path, "-0-of-2"), owned(tmp_path, "-1-of-2")
    with first, second, pytest.raises(Occupied), owned(tmp_path, "-1-of-2"):
        pass
    with owned(tmp_path, "-1-of-2"):
        pass


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    held, done = fork.Event(), fork.Event()

    def child() -> None:
        held.set()
        done.wait()

    with owned(tmp_path):
        process = fork.Process(target=child)
        process.start()
        held.wait()
    with owned(tmp_path):  # the child lives on
        done.set()
        process.join()
        with pytest.raises(Occupied), owned(tmp_path):
            pass


def test_the_folder_is_made_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("disk/run")
    with owned(tmp_path / "run"):
        assert (tmp_path / "disk/run").is_dir()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".owner.lock"]
