"""What does the caption stage cost: captions a second and memory, filter by filter?

    python scripts/bench/captions.py

Makes 450,000 captions of 6 to 16 words (one in ten nearly repeats one before, one in 37 repeats it
in capitals) and takes all that pass, each time in a process of its own: with the default filter,
with the language, with near-duplicates. There are 132 words in all, so captions are more alike than
people's are, which makes looking for near-duplicates slower. About three minutes.
"""

import io
import random
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from tables import header, row

from data_gen.captions.config import CaptionFilterKnobs, CaptionKnobs
from data_gen.captions.stage import write_captions

STEMS = (
    "sun",
    "moon",
    "river",
    "castle",
    "dog",
    "wind",
    "forest",
    "paint",
    "gold",
    "lamp",
    "stone",
)
ENDINGS = ("", "s", "ing", "light", "man", "woman", "field", "ry", "ist", "wood", "let", "ward")
FILTERS: dict[str, dict[str, Any]] = {
    "the default": {},
    "and the language": {"languages": ("en",)},
    "and near-duplicates, 0.8": {"near_duplicates": 0.8},
}


def main(count: int = 450_000) -> None:
    """Print a table.

    Args:
        count: How many captions.
    """
    header("filter", "captions", "kept", "CPU s", "captions a CPU s", "peak MB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "captions.txt").write_text("\n".join(made(count)))
        for about, filters in FILTERS.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                kept, seconds, peak = pool.submit(measured, folder, filters).result()
            rate = f"{count / seconds:,.0f}"
            row(about, f"{count:,}", f"{kept:,}", f"{seconds:.1f}", rate, peak)


def made(count: int) -> list[str]:
    """Captions, some of which repeat others."""
    words = [stem + ending for stem in STEMS for ending in ENDINGS]
    rng = random.Random(0)
    texts: list[str] = []
    for number in range(count):
        if texts and number % 10 == 0:
            texts.append(rng.choice(texts[-1000:]) + rng.choice([".", "!", " photo"]))
        elif texts and number % 37 == 0:
            texts.append(rng.choice(texts[-1000:]).upper())
        else:
            texts.append(" ".join(rng.choices(words, k=rng.randint(6, 16))))
    return texts


def measured(folder: Path, filters: dict[str, Any]) -> tuple[int, float, int]:
    """Captions kept, CPU seconds, and MB of memory at the peak of the process."""
    knobs = CaptionKnobs(
        file=folder / "captions.txt", count=None, filter=CaptionFilterKnobs(**filters)
    )
    start = time.process_time()
    with redirect_stdout(io.StringIO()):  # the table is this script's own
        kept = write_captions(knobs, folder / "captions.jsonl")
    seconds = time.process_time() - start
    return len(kept), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
