"""Tables in Markdown, for `RESULTS.md`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.proportions import wilson_interval


def header(*names: object) -> None:
    """Print the head of a table."""
    row(*names)
    row(*("---" for _ in names))


def row(*cells: object) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def share(hits: Sequence[bool] | NDArray[np.bool_]) -> str:
    """A share in words, with its 95 % interval; "-" of nothing."""
    if len(hits) == 0:
        return "-"
    low, high = wilson_interval(int(np.sum(hits)), len(hits))
    return f"{np.mean(hits):.1%} ({100 * low:.0f} to {100 * high:.0f})"
