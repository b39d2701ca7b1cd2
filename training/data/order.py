"""In which order the pairs of a data set are trained on, as pure functions.

Training never ends an epoch in Lightning's sense: it walks along one endless line of *positions*.
Position q belongs to epoch q // G and is its (q mod G)-th sample, for a set of G groups. Which pair
that is depends on the run's seed and the epoch alone, so the whole state of a reader is one
integer, the position it has come to, whatever the number of ranks and workers.

Several sets, or the pictures of several shapes, are lines of their own that are dealt into one in
fixed proportion (`Dealt`), so that this holds for them too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.noise import keyed_seed

LONGEST_CYCLE: Final = 10**7
"""Turns after which the proportion of several lines must come out even."""

Rows = NDArray[np.int64]
"""Row numbers of a shard index."""


def is_held_out(group: str, share: float) -> bool:
    """Whether a group is kept from training: decided by its hash, so for ever and everywhere."""
    return keyed_seed("held out", group) < share * 2**63


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Pairs by group; G groups of N pairs in all.

    Attributes:
        rows: (N,) rows of the index, those of a group side by side.
        starts: (G,) where a group begins in `rows`.
        counts: (G,) pairs of a group.
        shards: (G,) number of the shard that holds a group's first pair.
    """

    rows: Rows
    starts: Rows
    counts: Rows
    shards: Rows

    def __len__(self) -> int:
        return len(self.starts)


def grouped(rows: Sequence[int], groups: Sequence[str], shards: Sequence[str]) -> Groups:
    """Sort pairs into groups.

    Args:
        rows: Row numbers of N pairs.
        groups: Group id of each.
        shards: Name of the shard of each.
    """
    names = np.asarray(groups)
    _, shard_numbers = np.unique(np.asarray(shards), return_inverse=True)
    by_group = np.argsort(names, kind="stable")
    _, starts, counts = np.unique(names[by_group], return_index=True, return_counts=True)
    return Groups(
        rows=np.asarray(rows, dtype=np.int64)[by_group],
        starts=starts.astype(np.int64),
        counts=counts.astype(np.int64),
        shards=shard_numbers[by_group][starts],
    )


def epoch_rows(groups: Groups, *, seed: int, epoch: int, window: int) -> Rows:
    """The rows of one epoch in order: one pair of every group.

    The shards are permuted, then the groups within each `window` consecutive shards, so that
    reading stays within a few shards at a time, as remote storage likes it.

    Returns:
        (G,) rows of the index.
    """
    rng = np.random.default_rng(keyed_seed("order", seed, epoch))
    place = rng.permutation(int(groups.shards.max()) + 1)
    window_of = place[groups.shards] // window
    order = np.lexsort((rng.random(len(groups)), window_of))
    picks = groups.starts + (rng.random(len(groups)) * groups.counts).astype(np.int64)
    chosen: Rows = groups.rows[picks][order]
    return chosen


def split(groups: Groups, labels: Rows) -> dict[int, Groups]:
    """Part groups by a label each, (G,); the groups keep their order."""
    return {int(label): _chosen(groups, labels == label) for label in np.unique(labels)}


def _chosen(groups: Groups, mask: NDArray[np.bool_]) -> Groups:
    counts = groups.counts[mask]
    starts = np.cumsum(counts) - counts
    moved = np.repeat(groups.starts[mask] - starts, counts)
    return Groups(
        rows=groups.rows[moved + np.arange(len(moved))],
        starts=starts,
        counts=counts,
        shards=groups.shards[mask],
    )


class Place(NamedTuple):
    """What stands at a position.

    Attributes:
        part: Number of the data set.
        row: Row of it.
        epoch: How often that line has been walked before.
        bucket: Number of the size its pictures are cut to; 0 where there is one for all.
    """

    part: int
    row: int
    epoch: int
    bucket: int


class Line(Protocol):
    """An endless sequence of pairs."""

    def find(self, position: int) -> tuple["GroupLine", int]:
        """The line of groups that a position belongs to, and the position on it."""

    def leaves(self, share: float = 1.0) -> Iterator[tuple["GroupLine", float]]:
        """All lines of groups, each with its part of `share`."""


class GroupLine:
    """One pair of every group in every epoch, in the order of `epoch_rows`."""

    def __init__(
        self, groups: Groups, *, seed: int, window: int, part: int = 0, bucket: int = 0
    ) -> None:
        self.groups, self.part, self.bucket = groups, part, bucket
        self._seed, self._window = seed, window
        self._latest: tuple[int, Rows] | None = None

    def find(self, position: int) -> tuple["GroupLine", int]:
        """Itself."""
        return self, position

    def leaves(self, share: float = 1.0) -> Iterator[tuple["GroupLine", float]]:
        """Itself."""
        yield self, share

    def at(self, position: int) -> Place:
        """What stands at a position of this line."""
        epoch, number = divmod(position, len(self.groups))
        if self._latest is None or self._latest[0] != epoch:
            rows = epoch_rows(self.groups, seed=self._seed, epoch=epoch, window=self._window)
            self._latest = epoch, rows
        return Place(self.part, int(self._latest[1][number]), epoch, self.bucket)

    def instead(self, position: int, attempt: int) -> Place:
        """What stands in for it where it cannot be used, the first time, the second, ..."""
        rng = np.random.default_rng(keyed_seed("instead", self._seed, position, attempt))
        group = int(rng.integers(len(self.groups)))
        pair = int(self.groups.starts[group] + rng.integers(self.groups.counts[group]))
        epoch = position // len(self.groups)
        return Place(self.part, int(self.groups.rows[pair]), epoch, self.bucket)


class Dealt:
    """Several lines as one: runs of positions are dealt among them, in turns of `turns`.

    Args:
        lines: What is dealt.
        shares: How many runs each gets of a cycle, at least 1.
        run: Positions in a run.
    """

    def __init__(self, lines: Sequence[Line], shares: Sequence[int], run: int) -> None:
        self._lines, self._shares, self._run = lines, shares, run
        self._turns = turns(shares)
        self._before = np.empty(len(self._turns), dtype=np.int64)
        for number, share in enumerate(shares):
            self._before[self._turns == number] = np.arange(share)

    def find(self, position: int) -> tuple[GroupLine, int]:
        """See `Line`."""
        run, within = divmod(position, self._run)
        cycle, turn = divmod(run, len(self._turns))
        number = int(self._turns[turn])
        own = cycle * self._shares[number] + int(self._before[turn])
        return self._lines[number].find(own * self._run + within)

    def leaves(self, share: float = 1.0) -> Iterator[tuple[GroupLine, float]]:
        """See `Line`."""
        for line, own in zip(self._lines, self._shares, strict=True):
            yield from line.leaves(share * own / len(self._turns))


def turns(shares: Sequence[int]) -> Rows:
    """Whose turn it is, over one cycle, (sum of shares,): everybody's turns evenly spread.

    After q turns, of L lines, nobody is more than L / 2 turns ahead of or behind its share of q;
    after a cycle, nobody at all.
    """
    lines = np.repeat(np.arange(len(shares)), shares)
    due = np.concatenate([(np.arange(share) + 0.5) / share for share in shares])
    order: Rows = lines[np.lexsort((lines, due))].astype(np.int64)
    return order


def proportion(weights: Sequence[float]) -> list[int]:
    """Weights such as 0.75 and 0.25 as the smallest whole numbers in that proportion, 3 and 1.

    Raises:
        ValueError: A weight is not above 0, or the numbers add up to more than 10 million.
    """
    if any(not 0 < weight < float("inf") for weight in weights):
        raise ValueError(f"the weights of data.sets are {list(weights)}, expected them above 0")
    exact = [Fraction(str(weight)) for weight in weights]
    whole = lcm(*(fraction.denominator for fraction in exact))
    shares = [int(fraction * whole) for fraction in exact]
    least = [share // gcd(*shares) for share in shares]
    if sum(least) > LONGEST_CYCLE:
        raise ValueError(
            f"the weights of data.sets, {list(weights)}, come out even after {sum(least):,} "
            "samples only: write them rounder, thirds as 1 and 2"
        )
    return least


def batches(start: int, *, size: int, rank: int, world: int) -> Iterator[list[int]]:
    """The positions of one rank's share of every batch, from `start` on, without end.

    Args:
        start: Global position of the first sample.
        size: Samples in a batch over all ranks, a multiple of `world`.
        rank: Which share, 0 to `world` - 1.
        world: Number of ranks.
    """
    share = size // world
    while True:
        first = start + rank * share
        yield list(range(first, first + share))
        start += size
