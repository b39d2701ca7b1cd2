"""Every command that README.md shows is run: what the page promises works in this checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A fenced block of shell or Python, with the comment that marks it as slow where there is one.
BLOCK = re.compile(r"^(<!-- slow -->\n)?```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNERS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def blocks(page: str, *, slow: bool) -> list[tuple[str, str]]:
    """The (language, text) of the blocks of `page`, in its order: those marked slow, or the others.

    scripts/test is left out: it is what runs these tests.
    """
    found = []
    for mark, language, block in BLOCK.findall(page):
        lines = [line for line in block.splitlines() if not line.startswith("scripts/test")]
        if lines and bool(mark) == slow:
            found.append((language, "\n".join(lines)))
    return found


# One test runs its blocks in order, because a block uses what the ones above it made. The time is
# for a busy machine; on an idle one the quickstart takes ten minutes.
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_readme_runs(slow):
    shutil.rmtree(ROOT / "out/readme", ignore_errors=True)  # it may be of an earlier base model
    for language, block in blocks((ROOT / "README.md").read_text(), slow=slow):
        done = subprocess.run(
            [*RUNNERS[language], block],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_blocks_are_found_and_scripts_test_is_left_out():
    page = (
        "<!-- slow -->\n```sh\none\ntwo \\\n  more\n```\n"
        "```\nno language\n```\n```sh\nscripts/test --slow\n```\n```python\nthree\n```\n"
    )
    assert blocks(page, slow=True) == [("sh", "one\ntwo \\\n  more")]
    assert blocks(page, slow=False) == [("python", "three")]
