"""Who makes the units: an executor maps a function over them and knows nothing of what it does.

``in_process`` makes them one after the other; ``Partition`` cuts the table for array jobs, each of
which runs it on its share and all of which may share one output folder.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from data_gen.receipts import Receipt, Unit


class Executor(Protocol):
    """Maps an idempotent function over units, yielding each receipt once the unit is done."""

    def __call__(self, make: Callable[[Unit], Receipt], units: Sequence[Unit]) -> Iterator[Receipt]:
        """Make the units."""


def in_process(make: Callable[[Unit], Receipt], units: Sequence[Unit]) -> Iterator[Receipt]:
    """Make units one after the other in this process."""
    return map(make, units)


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

    def of(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Return this share of the units."""
        return units[self.index :: self.count]
