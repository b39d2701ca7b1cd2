"""Look at every pair before the first step, and report all that is wrong in one go.

A look decodes nothing: it reads texts, the first and the last bytes of pictures, and compares. What
decodes badly all the same is passed over during training, see `samples`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_gen.imports.reading import BadPair, Listing, Look, Size, require_like
from inference.files import write_lines
from inference.progress import ProgressBar
from training.data.config import Framing

SHOWN: Final = 3
"""Examples of each reason in a report."""
FAULTY_FILE: Final = "faulty.jsonl"
"""In the folder of a run: every pair that cannot be used, a line each."""

TextFault = Callable[[str], str | None]
"""What is wrong with an instruction, such as its length; None where nothing is."""


class FaultyData(ValueError):
    """Pairs cannot be trained on; the message is the whole report."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a pair: its place, the reason from a short list, and what was found."""

    where: str
    reason: str
    detail: str


@dataclass(kw_only=True)
class Findings:
    """What the looks at a set told.

    Attributes:
        name: Of the set.
        rows: (N,) rows looked at.
        sizes: (N, 2) height and width of each source image; 0 where it is not known.
        invertible: How many have an inverse instruction; None where that was not looked at.
        faults: Row -> what is wrong with it.
        notes: What of the other pairs' pictures is ignored -> how many pictures.
    """

    name: str
    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    invertible: int | None
    faults: dict[int, Fault] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)


def inspect(
    reader: Listing,
    rows: NDArray[np.int64],
    framing: Framing,
    *,
    text_fault: TextFault = lambda text: None,
    side_multiple: int = 1,
    quiet: bool = False,
) -> Findings:
    """Look at pairs of a set.

    Args:
        reader: The set.
        rows: (N,) which of its pairs.
        framing: How pictures will be cut, which decides what sizes will do.
        text_fault: A further test of instructions.
        side_multiple: What the VAE asks of the sides of pictures, where they are not cut.
        quiet: Show no progress.
    """
    multiple = side_multiple if framing.resolution is None else 1
    found = Findings(
        name=reader.name,
        rows=rows,
        sizes=np.zeros((len(rows), 2), dtype=np.int64),
        invertible=0 if reader.looks_within else None,
    )
    first_with: dict[str, int] = {}
    bar = ProgressBar(rows.tolist(), desc=f"looking at {reader.name}", unit="pair", disable=quiet)
    for number, row in enumerate(bar):
        try:
            _require_new(reader, row, first_with)
            look = _checked(reader.look(row), framing, text_fault)
            _require_multiple(look.source, multiple)
        except BadPair as error:
            found.faults[row] = Fault(
                where=reader.where(row), reason=error.reason, detail=error.detail
            )
            continue
        found.sizes[number] = look.source or 0
        found.notes.update(look.notes)
        if found.invertible is not None:
            found.invertible += bool(look.inverse_instruction)
    return found


def _require_new(reader: Listing, row: int, first_with: dict[str, int]) -> None:
    before = first_with.setdefault(reader.key(row), row)
    if before != row:
        raise BadPair("it comes twice", f"first as {reader.where(before)}")


def _checked(look: Look, framing: Framing, text_fault: TextFault) -> Look:
    if look.instruction is not None and not look.instruction.strip():
        raise BadPair("its instruction is empty")
    for text in (look.instruction, look.inverse_instruction):
        if text and (fault := text_fault(text)):
            raise BadPair(fault, repr(text))
    if look.source is not None and look.edited is not None:
        require_like(look.source, look.edited)
        if framing.resolution is None and look.source != look.edited:
            said = f"{look.source} and {look.edited}"
            raise BadPair("its pictures differ in size, and data.framing.resolution is null", said)
    return look


def _require_multiple(size: Size | None, multiple: int) -> None:
    if size is not None and any(side % multiple for side in size):
        raise BadPair(
            f"its sides are no multiples of {multiple}, and data.framing.resolution is null",
            str(size),
        )


def compare_sizes(readers: Sequence[Listing], found: Sequence[Findings]) -> None:
    """Note the pairs whose size is not that of most, over all sets: uncut, no batch holds both.

    Args:
        readers: The sets.
        found: What was found in each; faults are added to it.
    """
    known = np.concatenate([one.sizes[one.sizes.all(axis=1)] for one in found])
    if not len(known):
        return
    sizes, counts = np.unique(known, axis=0, return_counts=True)
    usual = Size(*sizes[counts.argmax()].tolist())
    for reader, one in zip(readers, found, strict=True):
        odd = one.sizes.all(axis=1) & (one.sizes != usual).any(axis=1)
        for row, size in zip(one.rows[odd].tolist(), one.sizes[odd].tolist(), strict=True):
            one.faults[row] = Fault(
                where=reader.where(row),
                reason="its size is not that of most, and data.framing.resolution is null",
                detail=f"{Size(*size)}, expected {usual}",
            )


def write_faults(folder: Path, found: Sequence[Findings]) -> None:
    """List every fault of every set in `FAULTY_FILE`; where there is none there is no such file."""
    path = folder / FAULTY_FILE
    listed = [{"set": one.name} | asdict(fault) for one in found for fault in one.faults.values()]
    if listed:
        write_lines(path, map(json.dumps, listed))
    else:
        path.unlink(missing_ok=True)


def report(found: Sequence[Findings]) -> str:
    """Faults of all sets by reason, with counts and the first few; empty where there is none."""
    return "\n".join(line for one in found for line in _lines(one))


def notes(found: Sequence[Findings]) -> list[str]:
    """What of pictures is ignored though they are trained on, with counts, a line each."""
    return [
        f"{one.name}: {count:,} pictures {note} are read without it"
        for one in found
        for note, count in one.notes.items()
    ]


def _lines(found: Findings) -> list[str]:
    by_reason: dict[str, list[Fault]] = defaultdict(list)
    for fault in found.faults.values():
        by_reason[fault.reason].append(fault)
    if not by_reason:
        return []
    lines = [
        f"{found.name}: {len(found.faults):,} of {len(found.rows):,} pairs cannot be trained on"
    ]
    for reason, faults in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines += [f"  {len(faults):,} x {reason}", *_examples(faults)]
    return lines


def _examples(faults: Sequence[Fault]) -> list[str]:
    shown = [f"      {one.where}" + (f": {one.detail}" if one.detail else "") for one in faults]
    more = [f"      and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    return shown[:SHOWN] + more
