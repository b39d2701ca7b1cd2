"""What does it cost to be answered: help, a wrong option, one edit?

    python scripts/bench/startup.py --before fad3e98

CPU seconds, user and system, of whole processes, one after the other, and how many times those of
`import torch` they are, which is timed in the same run. With `--before` the same lines are run at
that commit too, alternating; "-" where it does not know the line. About 10 minutes on one core, 2
without.
"""

import io
import math
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from jsonargparse import auto_cli

from inference.progress import ProgressBar
from inference.recipe_parser import USAGE_ERROR
from scripts.bench.tables import header, row

ROOT: Final = Path(__file__).parents[2]
YARDSTICK: Final = "import torch"
LIBRARIES: Final = "import torch, diffusers, transformers"
LIGHTNING: Final = "import inference, pytorch_lightning"
COMMANDS: Final = {
    "inference": ("edit", "invert", "caption", "convert", "grid"),
    "data_gen": (
        *("run", "captions", "instructions", "pairs", "estimate", "verify", "stats", "sheet"),
        *("import", "push", "fine-tune", "doctor"),
    ),
    "training": ("fit", "latents", "doctor"),
}
EDIT: Final = (
    *("edit", "--images", "docs/circle.png", "--instruction", "make the circle green"),
    *("--output", "{out}/edited.png"),
)
EDIT_ALONE: Final = """
import sys, time
from inference.__main__ import main
main(sys.argv[1:])
begun = time.process_time()
main(sys.argv[1:])
print(time.process_time() - begun)
"""


def main(before: str | None = None, repeats: int = 1, only: str = "") -> None:
    """Print the table.

    Args:
        before: A commit to compare with.
        repeats: How often each line is run; the median counts.
        only: A regular expression of the lines to run, beside those of imports alone; all if empty.
    """
    with ExitStack() as held:
        out = held.enter_context(tempfile.TemporaryDirectory())
        trees = {"now": ROOT}
        if before is not None:
            trees["before"] = _unpacked(before, Path(out, "before"))
        lines = {
            name: line
            for name, line in _lines(out).items()
            if line[0] == "-c" or re.search(only, name)
        }
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(repeats):
            for name, line in ProgressBar(lines.items()):
                for when, tree in trees.items():
                    found.setdefault((name, when), []).append(_cpu_seconds(line, tree))
        alone = _edit_alone(out)
    _print({key: statistics.median(values) for key, values in found.items()}, lines, trees)
    print(f"\nThe edit itself, once everything is imported: {alone:.2f} s.")


def _lines(out: str) -> dict[str, list[str]]:
    """What is run, by what the table calls it."""
    lines = {code: ["-c", code] for code in (YARDSTICK, LIBRARIES, LIGHTNING)}
    for package, commands in COMMANDS.items():
        lines[f"{package} --help"] = ["-m", package, "--help"]
        for command in commands:
            lines[f"{package} {command} --help"] = ["-m", package, command, "--help"]
        lines[f"{package} {commands[0]} --nonsense"] = ["-m", package, commands[0], "--nonsense"]
    lines["inference edit, one picture"] = ["-m", "inference", *_edit(out)]
    return lines


def _edit(out: str) -> list[str]:
    return [word.format(out=out) for word in EDIT]


def _cpu_seconds(line: Sequence[str], tree: Path) -> float:
    """Of a whole process, user and system; NaN where it ends otherwise than it should."""
    process = subprocess.Popen(
        [sys.executable, *line],
        cwd=tree,
        env=_environment(tree),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    expected = USAGE_ERROR if "--nonsense" in line else 0
    is_right = os.waitstatus_to_exitcode(status) == expected
    return usage.ru_utime + usage.ru_stime if is_right else math.nan


def _edit_alone(out: str) -> float:
    """CPU seconds of an edit in a process that has made one."""
    done = subprocess.run(
        [sys.executable, "-c", EDIT_ALONE, *_edit(out)],
        cwd=ROOT,
        env=_environment(ROOT),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def _environment(tree: Path) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _unpacked(commit: str, folder: Path) -> Path:
    """The files of a commit in a folder."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def _print(
    found: Mapping[tuple[str, str], float], lines: Mapping[str, object], trees: Mapping[str, Path]
) -> None:
    whens = sorted(trees)  # before, now
    header("what", *(f"{when}: s" for when in whens), *(f"{when}: of torch" for when in whens))
    for name in lines:
        seconds = [found[name, when] for when in whens]
        shares = [found[name, when] / found[YARDSTICK, when] for when in whens]
        row(name, *("-" if math.isnan(each) else f"{each:.2f}" for each in [*seconds, *shares]))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
