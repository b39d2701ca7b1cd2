"""From a recipe's data sets to one endless line of pairs: open, look, choose, deal.

Everything that is wrong with any of the sets is found here, before the first step, and reported
together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_gen.imports.reading import Listing, Reader
from data_gen.shards.cache import Cache
from data_gen.shards.stores import open_store
from inference.noise import keyed_seed
from training.data import order
from training.data.config import Faulty, Framing, PairSet
from training.data.framing import nearest
from training.data.inspection import (
    FAULTY_FILE,
    FaultyData,
    Findings,
    TextFault,
    compare_sizes,
    inspect,
    notes,
    report,
    write_faults,
)
from training.data.latent_shards import LatentPairs, Latents, holds_latents
from training.data.samples import Images, Source
from training.data.sets import chosen_rows, open_set, weights_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How sets become samples.

    Attributes:
        framing: How images are cut.
        batch_size: Pairs in a batch over all ranks.
        held_out: Share of the groups that is never trained on.
        backwards: Share of the samples that are to lead back.
        window: Number of shards among which the order is mixed.
        seed: Seed of the run.
        faulty: What becomes of pairs that cannot be used.
        cache: Where shards behind a URL are kept.
        text_fault: A test of instructions.
        side_multiple: What the sides of images must be multiples of.
        output: Folder of the run, where the pairs that cannot be used are listed.
        quiet: Show no progress, print no notes and write nothing.
    """

    framing: Framing
    batch_size: int
    held_out: float
    backwards: float
    window: int
    seed: int
    faulty: Faulty
    cache: Cache | None
    text_fault: TextFault
    side_multiple: int
    output: Path
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """What a run trains on.

    Attributes:
        line: Which pair stands where.
        sources: The sets, by their number on the line.
        held_out: Group -> number of a set and row of one of its pairs, never trained on.
        left_out: Number of a set and row of each pair that cannot be used.
    """

    line: order.Line
    sources: Sequence[Source]
    held_out: Mapping[str, tuple[int, int]]
    left_out: Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A set, and its rows that are within the recipe's bounds."""

    reader: Reader | LatentPairs
    rows: NDArray[np.int64]


def assemble(sets: Sequence[PairSet], plan: Plan) -> Assembled:
    """Open data sets, look at all their pairs, and deal them into one line.

    Raises:
        FaultyData: Pairs cannot be used, or several sets cannot; the message says all of it.
        FileNotFoundError, ValueError: The only thing that is wrong.
    """
    _require_sides(plan)
    some, unread = _opened(sets, plan)
    opened = [one.reader for one in some]
    found = [
        inspect(
            one.reader,
            one.rows,
            plan.framing,
            text_fault=plan.text_fault,
            side_multiple=plan.side_multiple,
            quiet=plan.quiet,
        )
        for one in some
    ]
    if found and plan.framing.resolution is None:
        compare_sizes(opened, found)
    _judge(opened, found, unread, plan)
    sources = [_source(reader, plan.framing) for reader in opened]
    held_out: dict[str, tuple[int, int]] = {}
    parts: list[order.Line] = []
    counts: list[int] = []
    for part, (reader, findings) in enumerate(zip(opened, found, strict=True)):
        sound = np.array([row not in findings.faults for row in findings.rows.tolist()], bool)
        groups = _groups(reader, findings.rows[sound], part, plan, held_out)
        counts.append(len(groups))
        parts.append(_line(groups, findings, part, plan))
    weights = order.proportion(weights_of(sets, counts))
    run = plan.batch_size if plan.framing.buckets else 1
    line = parts[0] if len(parts) == 1 else order.Dealt(parts, weights, run)
    left_out = [(part, row) for part, findings in enumerate(found) for row in findings.faults]
    return Assembled(line=line, sources=sources, held_out=held_out, left_out=sorted(left_out))


def _require_sides(plan: Plan) -> None:
    name = "resolution" if plan.framing.bucket_multiple is None else "bucket_multiple"
    if (getattr(plan.framing, name) or 0) % plan.side_multiple:
        raise ValueError(
            f"data.framing.{name} is {getattr(plan.framing, name)}, expected a multiple of "
            f"{plan.side_multiple}: by so much the VAE shrinks images"
        )


def _opened(sets: Sequence[PairSet], plan: Plan) -> tuple[list[_Opened], list[Exception]]:
    """The sets that can be opened, and what is wrong with the others."""
    opened: list[_Opened] = []
    unread: list[Exception] = []
    for knobs in sets:
        try:
            reader = _open(knobs, plan)
            opened.append(_Opened(reader=reader, rows=chosen_rows(reader, knobs)))
        except (OSError, ValueError) as error:
            unread.append(error)
    kinds = {isinstance(one.reader, LatentPairs) for one in opened}
    if len(kinds) > 1:
        raise ValueError("some of data.sets hold latents and some images, expected one kind")
    return opened, unread


def _open(knobs: PairSet, plan: Plan) -> Reader | LatentPairs:
    if knobs.layout == "shards" and holds_latents(open_store(knobs.path)):
        reader = LatentPairs(knobs.path, plan.cache)
        reader.require_framing(plan.framing)
        return reader
    return open_set(knobs, plan.cache)


def _source(reader: Reader | LatentPairs, framing: Framing) -> Source:
    return Latents(reader) if isinstance(reader, LatentPairs) else Images(reader, framing)


def _judge(
    readers: Sequence[Listing],
    found: Sequence[Findings],
    unread: Sequence[Exception],
    plan: Plan,
) -> None:
    """Refuse what is faulty, or say what is left out; and what cannot be done with the rest.

    Args:
        readers: The sets that could be opened.
        found: What was found in each.
        unread: What is wrong with the other sets.
        plan: Whether pairs may be left out.
    """
    count = sum(len(findings.faults) for findings in found)
    total = sum(len(findings.rows) for findings in found)
    if not plan.quiet:
        write_faults(plan.output, found)
    if len(unread) == 1 and not count:
        raise unread[0]
    faults = [*filter(None, [report(found)]), *(f"  {fault}" for fault in unread)]
    listed = f"listed in {plan.output / FAULTY_FILE}"
    ends = []
    if unread:
        sets = len(unread) + len(readers)
        ends.append(f"{len(unread)} of {sets} data sets cannot be read, see above")
    if count and plan.faulty == "refuse":
        ends.append(
            f"{count:,} of {total:,} pairs cannot be trained on, {listed}: mend them, or set "
            "data.faulty to leave_out"
        )
    if ends:
        raise FaultyData("\n".join([*faults, *ends]))
    if not plan.quiet:
        for note in notes(found):
            print(note)
    if count and not plan.quiet:
        print("\n".join([*faults, f"{count:,} of {total:,} pairs are left out, {listed}"]))
    if plan.backwards:
        _require_inverses(readers, found, plan)


def _require_inverses(readers: Sequence[Listing], found: Sequence[Findings], plan: Plan) -> None:
    """Some pair must lead back; how many do is said."""
    known = [findings.invertible for findings in found]
    if all(count == 0 for count in known):
        raise ValueError(
            f"{readers[0].where(0)}, as all pairs, has no inverse instruction, so none can be "
            "learned backwards: set data.backwards to 0"
        )
    for reader, findings in zip(readers, found, strict=True):
        count, total = findings.invertible, len(findings.rows) - len(findings.faults)
        if count is not None and count < total and not plan.quiet:
            print(
                f"{reader.name}: {count:,} of {total:,} pairs have an inverse instruction; "
                "the others lead forwards only"
            )


def _groups(
    reader: Listing,
    rows: NDArray[np.int64],
    part: int,
    plan: Plan,
    held_out: dict[str, tuple[int, int]],
) -> order.Groups:
    """The groups of a set that are trained on; the others are added to `held_out`."""
    names, shards = reader.groups, reader.shards
    held = {row for row in rows.tolist() if order.is_held_out(names[row], plan.held_out)}
    held_out |= {names[row]: (part, row) for row in sorted(held)}
    kept = [row for row in rows.tolist() if row not in held]
    if not kept:
        raise ValueError(f"{reader.name} holds no pair to train on, of {len(rows)} in all")
    return order.grouped(kept, [names[row] for row in kept], [shards[row] for row in kept])


def _line(groups: order.Groups, findings: Findings, part: int, plan: Plan) -> order.Line:
    """The line of one set; with buckets, one line for each, dealt batch by batch."""
    seed = plan.seed if part == 0 else keyed_seed("set", plan.seed, part)
    shapes = plan.framing.buckets
    if not shapes:
        return order.GroupLine(groups, seed=seed, window=plan.window, part=part)
    sizes = np.zeros((int(findings.rows.max()) + 1, 2), dtype=np.int64)
    sizes[findings.rows] = findings.sizes
    first = sizes[groups.rows[groups.starts]]  # a group has one shape: that of its first pair
    if (first == 0).any():
        raise ValueError(
            "an index without sizes cannot be sorted into buckets unread: push the set anew, or "
            "set data.framing.bucket_multiple to null"
        )
    unique, inverse = np.unique(first, axis=0, return_inverse=True)
    labels = np.array([nearest(shapes, *size) for size in unique.tolist()])[inverse.reshape(-1)]
    lines = {
        bucket: order.GroupLine(
            some, seed=keyed_seed(seed, bucket), window=plan.window, part=part, bucket=bucket
        )
        for bucket, some in order.split(groups, labels).items()
    }
    shares = order.proportion([len(line.groups) for line in lines.values()])
    return order.Dealt(list(lines.values()), shares, plan.batch_size)
