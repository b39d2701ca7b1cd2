"""Run a kind on many inputs, and hold each to its bounds."""

import random
import resource
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.ground import Ground
from tests.fuzz.kinds import Kind

MOST_SECONDS = 10.0
MOST_KIB = 2**20
"""What the process may grow by, at most: 1 GiB."""


@dataclass(kw_only=True)
class Tally:
    """What became of a kind's inputs; `over` is the first that was over the bounds."""

    count: int = 0
    slowest: float = 0.0  # of processor time, which other programs do not lengthen
    grown_kib: int = 0
    over: str = ""


def fuzz(kind: Kind, ground: Ground, count: int, folder: Path, *, start: int = 0) -> Tally:
    """Read inputs of a kind; the same ones every time.

    Raises:
        Whatever a reader should not have raised; or `AssertionError` where one took too long or too
        much memory.
    """
    tally, before = Tally(), memory_kib()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=start == 0,
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.inputs)
    def read(made: Any) -> None:
        place = Path(tempfile.mkdtemp(dir=folder))
        state = random.getstate()
        begun = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind.read(ground, place, made)
        finally:
            random.setstate(state)  # commands seed everything; hypothesis draws on
            shutil.rmtree(place, ignore_errors=True)
        tally.count += 1
        tally.slowest = max(tally.slowest, taken := time.process_time() - begun)
        tally.grown_kib = max(tally.grown_kib, memory_kib() - before)
        if taken > MOST_SECONDS or tally.grown_kib > MOST_KIB:
            # not raised here: to make the input smaller would cost as much again, many times
            tally.over = tally.over or (
                f"took {taken:.1f} s, the process grew by {tally.grown_kib:,} KiB: {made!r}"
            )

    (seed(start)(read) if start else read)()
    assert not tally.over, tally.over
    return tally


def memory_kib() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
