"""The order of training is a function of (seed, epoch), one pair of every group in an epoch."""

from itertools import islice

import numpy as np

from training.order import Groups, batches, epoch_rows, grouped, is_held_out


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
