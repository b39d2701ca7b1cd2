"""Who makes the units: the options."""

from dataclasses import dataclass
from typing import Literal

from inference.number_types import PositiveSmallCount, checks_numbers


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class ExecutorKnobs:
    """Who makes the units. What is made does not depend on it, but for ``threads``.

    Attributes:
        kind: ``in_process``; ``processes``, one a GPU; or ``ray``, actors of a running cluster,
            whose nodes all see the output folder under this path.
        workers: How many; null for one a GPU, without GPUs one a core.
        threads: Threads a worker computes with. On a CPU, bytes may move by rounding with it. null
            leaves it to torch in one process, shares torch's among processes, and is 1 on Ray.
        address: Of the Ray cluster; ``auto`` takes RAY_ADDRESS, or the one on this machine.
    """

    kind: Literal["in_process", "processes", "ray"] = "in_process"
    workers: PositiveSmallCount | None = None
    threads: PositiveSmallCount | None = None
    address: str = "auto"
