"""Look at every pair before the first step, and report all that is wrong in one go.

A look decodes nothing: it reads texts, the first and the last bytes of pictures, and compares. What
decodes badly all the same is passed over during training, see `samples`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_gen.imports.reading import BadPair, Listing, Look, require_like
from training.data.framing import Framing

SHOWN: Final = 3
"""Examples of each reason in a report."""

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
        rows: (N,) rows looked at.
        sizes: (N, 2) height and width of each source image; 0 where it is not known.
        invertible: How many have an inverse instruction; None where that was not looked at.
        faults: Row -> what is wrong with it.
    """

    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    invertible: int | None
    faults: dict[int, Fault] = field(default_factory=dict)


def inspect(
    reader: Listing,
    rows: NDArray[np.int64],
    framing: Framing,
    *,
    text_fault: TextFault = lambda text: None,
    quiet: bool = False,
) -> Findings:
    """Look at pairs of a set.

    Args:
        reader: The set.
        rows: (N,) which of its pairs.
        framing: How pictures will be cut, which decides what sizes will do.
        text_fault: A further test of instructions.
        quiet: Show no progress.
    """
    found = Findings(
        rows=rows,
        sizes=np.zeros((len(rows), 2), dtype=np.int64),
        invertible=0 if reader.looks_within else None,
    )
    first_with: dict[str, int] = {}
    bar = tqdm(rows.tolist(), desc=f"looking at {reader.name}", unit="pair", disable=quiet)
    for number, row in enumerate(bar):
        try:
            _require_new(reader, row, first_with)
            look = _checked(reader.look(row), framing, text_fault)
        except BadPair as error:
            found.faults[row] = Fault(
                where=reader.where(row), reason=error.reason, detail=error.detail
            )
            continue
        found.sizes[number] = look.source or 0
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


def report(findings: Mapping[str, Findings]) -> str:
    """All faults of all sets by reason, with counts and the first few; empty where there is none.

    Args:
        findings: Name of a set -> what was found in it.
    """
    lines = [line for name, found in findings.items() for line in _lines(name, found)]
    return "\n".join(lines)


def _lines(name: str, found: Findings) -> list[str]:
    by_reason: dict[str, list[Fault]] = defaultdict(list)
    for fault in found.faults.values():
        by_reason[fault.reason].append(fault)
    if not by_reason:
        return []
    lines = [f"{name}: {len(found.faults):,} of {len(found.rows):,} pairs cannot be trained on"]
    for reason, faults in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines += [f"  {len(faults):,} x {reason}", *_examples(faults)]
    return lines


def _examples(faults: Sequence[Fault]) -> list[str]:
    shown = [f"      {one.where}" + (f": {one.detail}" if one.detail else "") for one in faults]
    more = [f"      and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    return shown[:SHOWN] + more
