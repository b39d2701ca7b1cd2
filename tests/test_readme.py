"""Every command that README.md shows is run: what the page promises works in this checkout."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A fenced block of shell, with the comment that marks it as slow where there is one.
BLOCK = re.compile(r"^(<!-- slow -->\n)?```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[tuple[str, bool]]:
    """The shell blocks of `page`, each as (its commands, whether it is slow).

    A block is run as a whole, so that a command may use what the one above it made. scripts/test is
    left out: it is what runs these tests.
    """
    found = []
    for slow, block in BLOCK.findall(page):
        lines = [line for line in block.splitlines() if not line.startswith("scripts/test")]
        if any(lines):
            found.append(("\n".join(lines), bool(slow)))
    return found


def blocks():
    # Twice the ten minutes that the quickstart promises on an idle machine.
    slow_marks = [pytest.mark.slow, pytest.mark.timeout(1200)]
    return [
        pytest.param(block, id=block.splitlines()[0][:60], marks=slow_marks if slow else [])
        for block, slow in commands((ROOT / "README.md").read_text())
    ]


@pytest.mark.parametrize("block", blocks())
def test_the_readme_runs(block):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_blocks_are_found_and_scripts_test_is_left_out():
    page = (
        "<!-- slow -->\n```sh\none\ntwo \\\n  more\n```\n"
        "```\nnot shell\n```\n```sh\nscripts/test --slow\n```\n```sh\nthree\n```\n"
    )
    assert commands(page) == [("one\ntwo \\\n  more", True), ("three", False)]
