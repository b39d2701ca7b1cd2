"""The order of training is a function of (seed, epoch), one pair of every group in an epoch."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from training.data.order import (
    Dealt,
    GroupLine,
    Groups,
    Line,
    Place,
    batches,
    epoch_rows,
    grouped,
    is_held_out,
    proportion,
    split,
    turns,
)


def some_groups(count: int = 60, shards: int = 6) -> Groups:
    """Groups of one to three pairs, scattered over the rows, ten groups a shard."""
    names = [f"group-{number:03d}" for number in range(count) for _ in range(1 + number % 3)]
    shard_of = [f"{int(name[-3:]) * shards // count}.tar" for name in names]
    mixed = np.random.default_rng(0).permutation(len(names))
    return grouped(mixed.tolist(), [names[row] for row in mixed], [shard_of[row] for row in mixed])


def group_of(groups: Groups) -> dict[int, int]:
    ends = groups.starts + groups.counts
    spans = zip(groups.starts, ends, strict=True)
    return {int(r): g for g, (s, e) in enumerate(spans) for r in groups.rows[s:e]}


def test_every_epoch_takes_one_pair_of_every_group() -> None:
    groups = some_groups()
    owner = group_of(groups)
    for epoch in range(3):
        rows = epoch_rows(groups, seed=1, epoch=epoch, window=2)
        assert sorted(owner[row] for row in rows.tolist()) == list(range(60))


def test_epochs_and_seeds_differ_and_repeat_themselves() -> None:
    groups = some_groups()
    first = epoch_rows(groups, seed=1, epoch=0, window=2)
    assert np.array_equal(first, epoch_rows(groups, seed=1, epoch=0, window=2))
    assert not np.array_equal(first, epoch_rows(groups, seed=1, epoch=1, window=2))
    assert not np.array_equal(first, epoch_rows(groups, seed=2, epoch=0, window=2))


def test_all_pairs_of_a_group_get_their_turn() -> None:
    groups = some_groups()
    seen = {row for epoch in range(60) for row in epoch_rows(groups, seed=1, epoch=epoch, window=6)}
    assert seen == set(groups.rows.tolist())


def test_reading_stays_within_a_window_of_shards() -> None:
    groups = some_groups()
    owner = group_of(groups)
    rows = epoch_rows(groups, seed=1, epoch=0, window=2)
    for window in rows.reshape(3, 20):
        assert len({int(groups.shards[owner[int(row)]]) for row in window}) == 2


def test_ranks_share_the_batches_of_one_reader() -> None:
    alone = list(islice(batches(12, size=4, rank=0, world=1), 3))
    shared = [list(islice(batches(12, size=4, rank=rank, world=2), 3)) for rank in (0, 1)]
    assert alone == [a + b for a, b in zip(*shared, strict=True)]
    assert alone[0] == [12, 13, 14, 15]


def test_resuming_at_a_position_continues_the_line() -> None:
    whole = list(islice(batches(0, size=4, rank=0, world=1), 5))
    assert whole[3:] == list(islice(batches(12, size=4, rank=0, world=1), 2))


def test_a_held_out_group_is_so_by_its_name_alone() -> None:
    names = [f"{number:016x}" for number in range(4000)]
    held = [name for name in names if is_held_out(name, 0.1)]
    assert 320 < len(held) < 480
    assert set(held) <= {name for name in names if is_held_out(name, 0.2)}
    assert not any(is_held_out(name, 0.0) for name in names)


@pytest.mark.parametrize("shares", [[3, 1], [1, 1, 1], [5, 2, 11, 1], [1000, 999, 1]])
def test_turns_stay_close_to_the_proportion_and_come_out_even(shares: list[int]) -> None:
    taken = np.stack([turns(shares) == line for line in range(len(shares))])
    counts = np.cumsum(taken, axis=1)
    assert counts[:, -1].tolist() == shares
    due = np.outer(np.array(shares) / sum(shares), np.arange(1, sum(shares) + 1))
    assert np.abs(counts - due).max() <= len(shares) / 2


def test_weights_become_the_smallest_whole_numbers() -> None:
    assert proportion([0.75, 0.25]) == [3, 1]
    assert proportion([0.1, 0.2, 0.7]) == [1, 2, 7]
    assert proportion([313010.0, 8807.0]) == [313010, 8807]
    assert proportion([12.0]) == [1]
    with pytest.raises(ValueError, match="write them rounder, thirds as 1 and 2"):
        proportion([0.3333333333, 0.6666666667])
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected them above 0"):
            proportion([1.0, wrong])


def lines(*sizes: int) -> list[GroupLine]:
    return [
        GroupLine(some_groups(size), seed=part, window=2, part=part)
        for part, size in enumerate(sizes)
    ]


def at(line: Line, position: int) -> Place:
    leaf, own = line.find(position)
    return leaf.at(own)


def test_dealt_lines_keep_their_own_order_and_their_proportion() -> None:
    first, second = lines(12, 30)
    dealt = Dealt([first, second], [1, 3], 1)
    places = [at(dealt, position) for position in range(160)]
    for line, share in ((first, 40), (second, 120)):
        own = [place for place in places if place.part == line.part]
        assert own == [line.at(position) for position in range(share)]
    for start in range(0, 160, 4):
        assert [place.part for place in places[start : start + 4]].count(0) == 1


def test_runs_are_not_mixed_and_nothing_is_left_over() -> None:
    groups = some_groups(60)
    parts = split(groups, np.arange(60) % 7 % 3)
    shares = [len(part) for part in parts.values()]
    leaves = [GroupLine(part, seed=1, window=2, bucket=bucket) for bucket, part in parts.items()]
    dealt = Dealt(leaves, shares, 8)
    places = [at(dealt, position) for position in range(8 * 60)]
    for start in range(0, len(places), 8):
        assert len({place.bucket for place in places[start : start + 8]}) == 1
    owner = group_of(groups)
    seen = Counter(owner[place.row] for place in places)
    assert set(seen.values()) == {8}
    assert len(seen) == 60


def test_parts_of_groups_are_whole_groups() -> None:
    groups = some_groups(40)
    owner = group_of(groups)
    parts = split(groups, np.arange(40) % 3)
    for label, part in parts.items():
        for start, count in zip(part.starts, part.counts, strict=True):
            names = {owner[int(row)] for row in part.rows[start : start + count]}
            assert len(names) == 1
            assert names.pop() % 3 == label
    rows = [part.rows for part in parts.values()]
    assert sorted(np.concatenate(rows).tolist()) == sorted(groups.rows.tolist())


def test_what_stands_in_is_a_function_of_position_and_attempt() -> None:
    (line,) = lines(30)
    stand_ins = [[line.instead(position, attempt) for attempt in range(5)] for position in range(9)]
    again = GroupLine(some_groups(30), seed=0, window=2)
    assert stand_ins == [[again.instead(p, a) for a in range(5)] for p in range(9)]
    assert len({place.row for places in stand_ins for place in places}) > 20
