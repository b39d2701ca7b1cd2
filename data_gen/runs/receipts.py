"""Work units and their receipts: what is to be done, what is done, and how to write it safely.

A run is a table of units, each a fixed slice of the triplets sorted by id (a hash). A unit's
files go to temporary names, are fsynced and renamed; its receipt is written last. *Done* means a
receipt with the unit's fingerprint and no failed prompt, so a run may be killed anywhere and run
again. Rejected prompts are done, failed ones are not.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_gen.records import EditTriplet
from inference.content_id import content_id
from inference.errors import ExpectedError
from inference.files import folder_digest, write_lines
from inference.outside import read_object


class Unfinished(ExpectedError):
    """The run ended and something is still to be done."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A slice of the prompts, made as a whole.

    Attributes:
        name: Its number, five digits, also the stem of its files.
        fingerprint: Hash of everything its bytes depend on: recipe, models, and its triplets.
        triplets: The slice.
    """

    name: str
    fingerprint: str
    triplets: tuple[EditTriplet, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """What a receipt tells outcomes of, by name."""
        return tuple(triplet.id for triplet in self.triplets)

    @property
    def stem(self) -> str:
        """Name of its files, different for every fingerprint, such as ``00007-1f9a03bc``."""
        return f"{self.name}-{self.fingerprint[:8]}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one prompt of a unit.

    Attributes:
        status: ``passed`` (some pairs kept), ``rejected`` (none kept) or ``failed`` (an error).
        kept: Number of pairs kept.
        reasons: Why pairs, or the whole prompt, were not kept -> how many.
    """

    status: Literal["passed", "rejected", "failed"]
    kept: int = 0
    reasons: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The proof that a unit is done.

    Attributes:
        unit: The unit's name.
        fingerprint: The unit's fingerprint.
        files: Path of each file made, relative to the data set's folder -> SHA-256 of its bytes.
        prompts: Triplet id -> outcome.
        seconds: What took how long: ``render``, ``score``, ``write`` (all the rest), ``total``.
        versions: Library -> version that made it.
        notes: What of pictures was ignored, though they are kept -> how many.
        provenance: What every pair says about where it comes from: models, of the hub with their
            commit.
    """

    unit: str
    fingerprint: str
    files: Mapping[str, str]
    prompts: Mapping[str, Outcome]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    notes: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether a prompt of the unit failed, so that the unit has to be made again."""
        return any(outcome.status == "failed" for outcome in self.prompts.values())


def plan(triplets: Iterable[EditTriplet], *, unit_size: int, recipe: str) -> list[Unit]:
    """Cut the triplets into units.

    Args:
        triplets: The prompts, in any order.
        unit_size: Prompts a unit.
        recipe: Fingerprint of recipe and models.

    Returns:
        The units; the same triplets and recipe give the same units whatever their order. One
        triplet more shifts all slices after it, so that those units are made anew.
    """
    ordered = sorted(triplets, key=lambda triplet: triplet.id)
    starts = range(0, len(ordered), unit_size)
    slices = [tuple(ordered[start : start + unit_size]) for start in starts]
    return [
        Unit(
            name=f"{number:05d}",
            fingerprint=content_id(recipe, *(triplet.id for triplet in piece)),
            triplets=piece,
        )
        for number, piece in enumerate(slices)
    ]


def fingerprint(recipe: Mapping[str, Any], folders: Iterable[str | Path]) -> str:
    """Hash a recipe and the contents of the model folders it names.

    Args:
        recipe: The knobs that decide what is made, JSON-able.
        folders: Model folders. What is no folder here (a name on a hub) is hashed by name.
    """
    contents = [folder_digest(Path(folder)) or str(folder) for folder in folders]
    return content_id(json.dumps(recipe, sort_keys=True), *contents)


def failure(unit: Unit, reason: str, versions: Mapping[str, str]) -> Receipt:
    """Say of a unit that all its prompts failed, for one reason."""
    failed = Outcome(status="failed", reasons={reason: 1})
    return Receipt(
        unit=unit.name,
        fingerprint=unit.fingerprint,
        files={},
        prompts=dict.fromkeys(unit.prompts, failed),
        seconds={},
        versions=versions,
    )


def write_receipt(root: Path, receipt: Receipt) -> None:
    """Write a receipt atomically to the data set in ``root``."""
    path = _receipt_path(root, receipt.unit)
    write_lines(path, [json.dumps(asdict(receipt), indent=1)])


def done_receipt(root: Path, unit: Unit) -> Receipt | None:
    """Return a unit's receipt if the unit is done: same fingerprint, none failed, files there.

    Raises:
        ValueError: What stands in place of a receipt is none.
    """
    receipt = read_receipt(_receipt_path(root, unit.name))
    if receipt is None or receipt.fingerprint != unit.fingerprint or receipt.failed:
        return None
    return receipt if all((root / name).is_file() for name in receipt.files) else None


def _receipt_path(root: Path, unit: str) -> Path:
    return root / "receipts" / f"{unit}.json"


def read_receipt(path: Path) -> Receipt | None:
    """Read one receipt; None where there is no file.

    Raises:
        ValueError: What stands there is no receipt.
    """
    try:
        fields = read_object(path)
        prompts = {name: Outcome(**outcome) for name, outcome in fields.pop("prompts").items()}
        receipt = Receipt(**fields, prompts=prompts)
        _require_types(receipt)
        return receipt  # noqa: TRY300  (errors of its own types are caught here too)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no receipt ({error}): delete it to make the unit again"
        ) from error


def _require_types(receipt: Receipt) -> None:
    """Raise `TypeError` where a field that is used is of another type."""
    texts = [receipt.unit, receipt.fingerprint, *receipt.files.values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("unit, fingerprint and hashes are expected to be text")
    if not all(type(count) is int for count in receipt.notes.values()):
        raise TypeError("notes are expected to be counts")
    for name, outcome in receipt.prompts.items():
        counts = [outcome.kept, *outcome.reasons.values()]
        known = outcome.status in ("passed", "rejected", "failed")
        if not known or not all(type(count) is int for count in counts):
            raise TypeError(f"prompt {name} has an unknown status, or counts that are none")


def tally(receipts: Sequence[Receipt]) -> tuple[Counter[str], Counter[str]]:
    """Count prompts by status, and what was not kept by reason."""
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for receipt in receipts:
        for outcome in receipt.prompts.values():
            statuses[outcome.status] += 1
            reasons.update(outcome.reasons)
    return statuses, reasons


def require_none_failed(receipts: Sequence[Receipt]) -> None:
    """Require units of which none failed.

    Raises:
        Unfinished: Some did; says how many, and why.
    """
    failed = [receipt for receipt in receipts if receipt.failed]
    if failed:
        _, reasons = tally(failed)
        raise Unfinished(
            f"{len(failed)} units failed, {dict(reasons)}: run again to make them again"
        )
