"""In which order the pairs of a data set are trained on, as pure functions.

Training never ends an epoch in Lightning's sense: it walks along one endless line of *positions*.
Position q belongs to epoch q // G and is its (q mod G)-th sample, for a set of G groups. Which pair
that is depends on the run's seed and the epoch alone, so the whole state of a reader is one
integer, the position it has come to, whatever the number of ranks and workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.noise import keyed_seed

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
