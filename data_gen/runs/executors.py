"""Who makes the units: an executor has them made and knows nothing of what that takes.

``in_process`` makes them one after the other, ``Processes`` on all GPUs or cores of a machine,
``RayActors`` on a cluster; the bytes are the same. ``outcomes`` writes the receipts. ``Partition``
cuts the table for array jobs, each of which runs it on its share; all may share one output folder.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch

from data_gen.runs.config import ExecutorKnobs
from data_gen.runs.processes import Processes
from data_gen.runs.receipts import Outcome, Receipt, Unit, require_none_failed, write_receipt
from data_gen.runs.workers import Made, Start

U = TypeVar("U", bound=Unit)


class Executor(Protocol):
    """Makes units, an idempotent thing to do."""

    def __call__(self, start: Start, units: Sequence[Unit]) -> Made:
        """Make the units.

        Args:
            start: Called once in each process that makes units.
            units: What to make.

        Yields:
            The outcome of each prompt as it is done, and the receipt of each unit once its files
            are complete. Writing the receipt is for the caller. Closing ends all workers.
        """


def executor_of(knobs: ExecutorKnobs) -> Executor:
    """Make the executor that a recipe asks for.

    Raises:
        ValueError: Ray is not installed.
    """
    if knobs.kind == "processes":
        return Processes(workers=knobs.workers, threads=knobs.threads)
    if knobs.kind == "ray":
        try:
            from data_gen.runs.ray_actors import RayActors
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise ValueError("executor.kind ray needs Ray: pip install 'emend[ray]'") from error
        return RayActors(address=knobs.address, workers=knobs.workers, threads=knobs.threads)
    if knobs.threads is not None:
        torch.set_num_threads(knobs.threads)
    return in_process


def in_process(start: Start, units: Sequence[Unit]) -> Made:
    """Make units one after the other in this process."""
    make = start()
    for unit in units:
        yield from make(unit)


def outcomes(
    executor: Executor, start: Start, units: Sequence[Unit], root: Path
) -> Generator[Outcome]:
    """Have units made and write their receipts, which only the process that asks for them does.

    Args:
        executor: Who makes them.
        start: Called once in each process that makes units.
        units: What to make.
        root: The folder whose receipts they are.

    Yields:
        The outcome of each prompt as it is done. Closing ends all workers.

    Raises:
        Unfinished: Prompts failed; all others are done by then.
    """
    receipts: list[Receipt] = []
    with closing(executor(start, units)) as all_made:
        for made in all_made:
            if isinstance(made, Receipt):
                write_receipt(root, made)
                receipts.append(made)
            else:
                yield made
    require_none_failed(receipts)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One share of the units: every ``count``-th, from ``index`` on."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``i/n``, 0 <= i < n.

        Raises:
            ValueError: The text is anything else.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"partition must be i/n with 0 <= i < n, such as 0/4, got {text!r}")
        return cls(index=int(index), count=int(count))

    @property
    def name(self) -> str:
        """What tells it from the other shares, for a file name."""
        return f"-{self.index}-of-{self.count}"

    def of(self, units: Sequence[U]) -> Sequence[U]:
        """Return this share of the units."""
        return units[self.index :: self.count]
