"""scripts/_venv.sh: .venv is made once, kept right, and repaired after a kill at any moment."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest


def marker(tree):
    """What the installed package says, which is the description of the pyproject it came from."""
    code = "import tiny; print(tiny.marker)"
    return tree.run(".venv/bin/python", "-c", code).stdout.strip()


def tools(folder: Path, **python: str) -> str:
    """A PATH with the ordinary tools and, of Python, only the given scripts."""
    folder.mkdir()
    for name in ("awk", "bash", "cat", "dirname", "env", "grep", "mv", "rm", "tail", "touch"):
        (folder / name).symlink_to(shutil.which(name))
    for name, text in python.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_a_second_run_does_nothing_at_once(installed):
    stamp = installed.folder / ".venv/emend-stamp"
    before = stamp.stat().st_mtime_ns
    begin = time.monotonic()
    again = installed.ensure_venv("dev")
    assert again.returncode == 0
    assert again.stdout == ""
    assert time.monotonic() - begin < 5
    assert stamp.stat().st_mtime_ns == before


def test_what_holds_the_extra_also_serves_without(installed):
    assert installed.ensure_venv().stdout == ""


def test_a_changed_pyproject_is_installed(installed):
    pyproject = installed.folder / "pyproject.toml"
    text = pyproject.read_text()
    installed.write("pyproject.toml", text.replace('"first"', '"second"'))
    assert "installing" in installed.ensure_venv("dev").stdout
    assert marker(installed) == "second"
    pyproject.write_text(text)
    installed.ensure_venv("dev")
    assert marker(installed) == "first"


def test_the_extra_is_added_to_the_same_venv(tree):
    assert tree.ensure_venv().returncode == 0
    made = (tree.folder / ".venv/made").stat().st_mtime_ns
    assert "with the extra dev" in tree.ensure_venv("dev").stdout
    assert tree.ensure_venv("dev").stdout == ""
    assert (tree.folder / ".venv/made").stat().st_mtime_ns == made


def test_a_half_installed_package_is_installed_again(installed):
    """pip alone would take the package for installed: its metadata is there, its files are not."""
    (installed.folder / ".venv/emend-stamp").unlink()
    packages = installed.site_packages
    (packages / "tiny-1.0.dist-info/RECORD").unlink()
    (packages / "tiny.py").unlink()
    (packages / "~iny").mkdir()
    assert installed.ensure_venv("dev").returncode == 0
    assert marker(installed) == "first"
    assert not list(packages.glob("~*"))


def test_a_venv_without_a_whole_pip_is_made_anew(tree):
    """The kill came while `python -m venv` was at work."""
    (tree.folder / ".venv/bin").mkdir(parents=True)
    (tree.folder / ".venv/bin/python").symlink_to(sys.executable)
    assert tree.ensure_venv().returncode == 0
    assert marker(tree) == "first"


def test_a_child_that_outlived_its_script_is_waited_for(tree):
    """kill -9 takes the script alone; its pip still writes into .venv."""
    script = tree.start_ensure_venv(BUILD_SECONDS="4")
    deadline = time.monotonic() + 90
    while not (tree.folder / "building").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(script.pid, signal.SIGKILL)
    again = tree.ensure_venv()
    script.communicate()
    assert again.returncode == 0
    assert "waiting for an earlier run" in again.stdout
    assert marker(tree) == "first"


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(4))
def test_killed_anywhere_and_run_again(tree, attempt):
    delay = random.Random(attempt).uniform(0.1, 6)
    script = tree.start_ensure_venv(BUILD_SECONDS="1")
    try:
        script.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(script.pid, signal.SIGKILL)
        script.communicate()
    assert tree.ensure_venv().returncode == 0
    assert marker(tree) == "first"
    assert tree.ensure_venv().stdout == ""


@pytest.mark.parametrize(
    ("python", "found"),
    [({}, "none"), ({"python3": 'test "$1" = --version && echo Python 3.9.2'}, "Python 3.9.2")],
)
def test_a_missing_python_is_named(tree, tmp_path, python, found):
    failed = tree.ensure_venv(PATH=tools(tmp_path / "bin", **python))
    assert failed.returncode == 1
    assert failed.stderr == (
        f"error: Emend needs Python 3.11 or newer, found {found}; "
        "install Python 3.11 and run this again.\n"
    )


def test_a_missing_ensurepip_is_named(tree, tmp_path):
    python = f'case "$2" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"'
    failed = tree.ensure_venv(PATH=tools(tmp_path / "bin", python3=python))
    assert failed.returncode == 1
    assert "lacks the modules venv and ensurepip; install them" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_what_pip_lacks_is_named_and_the_next_run_recovers(installed):
    pyproject = installed.folder / "pyproject.toml"
    text = pyproject.read_text()
    lacking = text.replace("dependencies = []", 'dependencies = ["emend-lacks-this"]')
    installed.write("pyproject.toml", lacking)
    failed = installed.ensure_venv("dev")
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: pip could not install")
    assert "No matching distribution found for emend-lacks-this" in last
    pyproject.write_text(text)
    assert installed.ensure_venv("dev").returncode == 0
    assert marker(installed) == "first"


CPU_TORCH = """
set -euo pipefail
source scripts/_venv.sh
cpu_index=$0
wants_cpu_torch() { true; }
ensure_venv
"""


def test_without_a_gpu_torch_comes_from_the_index_of_cpu_builds(tree, tmp_path):
    """Where that has none, from the default one, which here has none either."""
    pyproject = (tree.folder / "pyproject.toml").read_text()
    needs = pyproject.replace("dependencies = []", 'dependencies = ["torch-of-a-test>=1"]')
    tree.write("pyproject.toml", needs)
    index = tmp_path / "index" / "torch-of-a-test"
    index.mkdir(parents=True)
    command = ("bash", "-c", CPU_TORCH, index.parent.as_uri())
    without = tree.run(*command)
    assert without.returncode == 1
    assert "torch comes from the default index" in without.stdout
    assert "pip could not install" in without.stderr

    name = "torch_of_a_test-1.0-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as wheel:
        metadata = "torch_of_a_test-1.0.dist-info"
        wheel.writestr("torch_of_a_test.py", "build = 'cpu'")
        wheel.writestr(
            f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: torch-of-a-test\nVersion: 1.0\n"
        )
        wheel.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{metadata}/RECORD", "torch_of_a_test.py,,\n")
    (index / "index.html").write_text(f'<a href="{name}">{name}</a>')
    found = tree.run(*command, PIP_NO_INDEX="0")
    assert found.returncode == 0, found.stderr
    said = tree.run(".venv/bin/python", "-c", "import torch_of_a_test as t; print(t.build)")
    assert said.stdout == "cpu\n"
