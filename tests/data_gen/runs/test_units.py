"""A run may be killed anywhere and run again: the keys and bytes are those of an unbroken one."""

import dataclasses
import errno
import itertools
import json
import os
import random
import signal
import socket
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_gen.records import EditTriplet, Rendered, Verdict
from data_gen.runs.executors import Partition, in_process
from data_gen.runs.receipts import Receipt, Unit, done_receipt, plan, tally, write_receipt
from data_gen.runs.units import Paint, UnitMaker, publish
from data_gen.shards import ShardIndex, scan_shard
from inference import files


def maker(root: Path, paint: Paint) -> UnitMaker:
    return UnitMaker(root=root, paint=paint, provenance={"model": "noise"}, keep_rejected=2)


def make(root: Path, units: Sequence[Unit], paint: Paint) -> list[Receipt]:
    """Make units and write their receipts."""
    receipts = []
    for made in in_process(lambda: maker(root, paint), units):
        if isinstance(made, Receipt):
            write_receipt(root, made)
            receipts.append(made)
    return receipts


def make_all(root: Path, units: Sequence[Unit], paint: Paint) -> list[Receipt]:
    """What the pair stage does, without models."""
    make(root, [unit for unit in units if done_receipt(root, unit) is None], paint)
    receipts = [receipt for unit in units if (receipt := done_receipt(root, unit))]
    assert len(receipts) == len(units)
    publish(root, receipts)
    return receipts


def contents(root: Path) -> dict[str, bytes]:
    """Every file but the receipts, which hold times."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != "receipts"
    }


@pytest.fixture
def units(triplets: list[EditTriplet]) -> list[Unit]:
    return plan(triplets, unit_size=3, recipe="test")


def test_units_do_not_depend_on_the_order_of_triplets(
    triplets: list[EditTriplet], units: list[Unit]
) -> None:
    assert plan(triplets[::-1], unit_size=3, recipe="test") == units
    assert [len(unit.triplets) for unit in units] == [3, 3, 3, 1]
    other = plan(triplets, unit_size=3, recipe="other")
    assert not {unit.fingerprint for unit in units} & {unit.fingerprint for unit in other}
    fewer = plan(units[0].triplets[1:], unit_size=3, recipe="test")
    assert fewer[0].fingerprint != units[0].fingerprint


def test_every_candidate_is_accounted_for(tmp_path: Path, units: list[Unit], paint: Paint) -> None:
    receipts = make_all(tmp_path, units, paint)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "candidates").glob("*"))]
    rows = [row for table in tables for row in table.to_pylist()]
    kept = [row["key"] for row in rows if row["reason"] is None]
    index = ShardIndex(tmp_path)
    assert kept == [index[position].key for position in range(len(index))]
    statuses, reasons = tally(receipts)
    assert statuses.total() == 10
    assert reasons == {"directional": len(rows) - len(kept)}
    assert len(rows) == 10 * 4
    assert [index.read(position).key for position in range(len(index))] == kept


def test_done_is_not_done_twice(tmp_path: Path, units: list[Unit], paint: Paint) -> None:
    make_all(tmp_path, units, paint)
    before = contents(tmp_path)

    def refuse(triplets: Sequence[EditTriplet]) -> Iterator[tuple[Rendered, list[Verdict]]]:
        raise AssertionError

    make_all(tmp_path, units, refuse)
    assert contents(tmp_path) == before


def test_a_lost_file_is_made_again(tmp_path: Path, units: list[Unit], paint: Paint) -> None:
    make_all(tmp_path, units, paint)
    before = contents(tmp_path)
    next((tmp_path / "shards").glob("*.tar")).unlink()
    make_all(tmp_path, units, paint)
    assert contents(tmp_path) == before


def test_another_recipe_replaces_the_data_set(
    tmp_path: Path, triplets: list[EditTriplet], units: list[Unit], paint: Paint
) -> None:
    make_all(tmp_path, units, paint)
    other = plan(triplets[:4], unit_size=3, recipe="other")
    make_all(tmp_path, other, paint)
    stems = {unit.stem for unit in other}
    assert {path.stem for path in (tmp_path / "shards").iterdir()} <= stems
    assert {path.stem for path in (tmp_path / "receipts").iterdir()} == {"00000", "00001"}
    assert set(ShardIndex(tmp_path).groups) <= {triplet.id for triplet in triplets[:4]}


def test_publishing_leaves_what_another_job_is_writing(
    tmp_path: Path, units: list[Unit], paint: Paint
) -> None:
    host = socket.gethostname()
    names = [f".captions.jsonl.{host}.{{}}.tmp", f".tmp/00000-0.{host}.{{}}/shards"]
    for name in names:
        for process in (os.getpid(), os.getppid()):  # what a former process left, and one at work
            path = tmp_path / name.format(process)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / ".triplets.jsonl.another-machine.1.tmp").touch()
    make_all(tmp_path, units, paint)
    for name in names:
        assert (tmp_path / name.format(os.getppid())).exists()
        assert not (tmp_path / name.format(os.getpid())).exists()
    assert (tmp_path / ".triplets.jsonl.another-machine.1.tmp").exists()


def test_a_few_pairs_that_failed_something_are_kept_with_their_reason(
    tmp_path: Path, units: list[Unit], paint: Paint
) -> None:
    def judge(triplets: Sequence[EditTriplet]) -> Iterator[tuple[Rendered, list[Verdict]]]:
        """The first candidate of a triplet was only outranked, the second failed."""
        for rendered, verdicts in paint(triplets):
            best, second, third, fourth = (verdict.pair for verdict in verdicts)
            yield (
                rendered,
                [
                    Verdict(pair=best, reason="not the best p of its seed", outranked=True),
                    Verdict(pair=second, reason="directional < 0.2"),
                    Verdict(pair=third, reason=None),
                    Verdict(pair=fourth, reason="text_edited < 0.2"),
                ],
            )

    (receipt,) = make(tmp_path, units[:1], judge)
    (tar,) = (name for name in receipt.files if name.startswith("rejected/"))
    with tarfile.open(tmp_path / tar) as members:
        contents = [members.extractfile(one) for one in members if one.name.endswith(".json")]
        said = [json.loads(content.read()) for content in contents if content]
    assert [one["reason"] for one in said] == ["directional < 0.2"] * 2
    assert [(one["seed_index"], one["branch"]) for one in said] == [(0, 1)] * 2
    assert len({one["group"] for one in said}) == 2
    assert len(scan_shard(tmp_path / tar, tar)) == 2


def test_rejected_is_done_and_failed_is_made_again(
    tmp_path: Path, units: list[Unit], paint: Paint
) -> None:
    def reject(triplets: Sequence[EditTriplet]) -> Iterator[tuple[Rendered, list[Verdict]]]:
        for triplet in triplets:
            yield Rendered(triplet=triplet, pairs=(), reason="a caption exceeds 32 tokens"), []

    def fail(triplets: Sequence[EditTriplet]) -> Iterator[tuple[Rendered, Sequence[Verdict]]]:
        yield from list(paint(triplets))[:1]
        raise RuntimeError("out of memory")

    (rejected,) = make(tmp_path, units[:1], reject)
    (failed,) = make(tmp_path, units[1:2], fail)
    assert done_receipt(tmp_path, units[0]) == rejected
    assert {outcome.status for outcome in rejected.prompts.values()} == {"rejected"}
    assert done_receipt(tmp_path, units[1]) is None
    assert {tuple(outcome.reasons) for outcome in failed.prompts.values()} == {
        ("RuntimeError: out of memory",)
    }
    assert not list((tmp_path / "shards").glob("*"))
    with pytest.raises(ValueError, match="no pair passed"):
        publish(tmp_path, [rejected])


def test_partitions_share_the_units(tmp_path: Path, units: list[Unit], paint: Paint) -> None:
    shares = [Partition.parse(f"{index}/3").of(units) for index in range(3)]
    assert sorted(unit.name for share in shares for unit in share) == [u.name for u in units]
    for share in shares:
        make(tmp_path / "split", share, paint)
    make_all(tmp_path / "split", units, paint)
    make_all(tmp_path / "whole", units, paint)
    assert contents(tmp_path / "split") == contents(tmp_path / "whole")


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/2", "0/0"])
def test_a_wrong_partition_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="partition must be i/n"):
        Partition.parse(text)


def test_a_full_disk_leaves_no_half_a_unit(
    tmp_path: Path, units: list[Unit], paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            make_all(tmp_path, units, paint)
    assert contents(tmp_path) == {}
    make_all(tmp_path, units, paint)
    make_all(tmp_path / "whole", units, paint)
    whole = contents(tmp_path / "whole")
    assert {name: content for name, content in contents(tmp_path).items() if name in whole} == whole


def test_what_stands_in_place_of_a_receipt_is_named(
    tmp_path: Path, units: list[Unit], paint: Paint
) -> None:
    make_all(tmp_path, units, paint)
    (tmp_path / "receipts" / "00001.json").write_text("{}")
    with pytest.raises(ValueError, match=r"00001\.json is no receipt"):
        done_receipt(tmp_path, units[1])


def _run_until_killed(root: Path, units: Sequence[Unit], paint: Paint, event: int) -> bool:
    """Make the data set in a child that kills itself at the n-th event; whether it came to that.

    An event is a prompt painted, or the moment to make a file or a folder durable.
    """
    events = itertools.count()

    def tick() -> None:
        if next(events) == event:
            os.kill(os.getpid(), signal.SIGKILL)

    def ticking_paint(
        triplets: Sequence[EditTriplet],
    ) -> Iterator[tuple[Rendered, Sequence[Verdict]]]:
        for item in paint(triplets):
            tick()
            yield item

    child = os.fork()
    if child == 0:
        files._fsync = lambda path: tick()
        make_all(root, units, ticking_paint)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_killed_at_random_moments_it_comes_out_the_same(
    tmp_path: Path, units: list[Unit], paint: Paint
) -> None:
    make_all(tmp_path / "whole", units, paint)
    rng = random.Random(0)
    hits = [
        _run_until_killed(tmp_path / "killed", units, paint, rng.randrange(25)) for _ in range(5)
    ]
    assert sum(hits) >= 4
    make_all(tmp_path / "killed", units, paint)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_killed_at_any_moment_it_comes_out_the_same(
    tmp_path: Path, units: list[Unit], paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_fsync", lambda path: None)  # a kill loses nothing written
    make_all(tmp_path / "whole", units, paint)
    for event in itertools.count():
        root = tmp_path / str(event)
        killed = _run_until_killed(root, units, paint, event)
        make_all(root, units, paint)
        assert contents(root) == contents(tmp_path / "whole")
        if not killed:
            break
    assert event > 50


def test_provenance_tells_data_sets_apart(tmp_path: Path, units: list[Unit], paint: Paint) -> None:
    one, other = maker(tmp_path / "one", paint), maker(tmp_path / "other", paint)
    other = dataclasses.replace(other, provenance={"model": "another"})
    (*_, first), (*_, second) = one(units[0]), other(units[0])
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert first.files != second.files
