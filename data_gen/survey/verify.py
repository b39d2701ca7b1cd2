"""Look at a data set as its next reader will, and report all that is wrong with it at once.

Files are held against their receipts, members against the allow-list, the index against the tars,
and with CLIP each image against both captions: sets whose inputs and outputs were swapped have
been published. Nothing is mended here.
"""

import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa

from data_gen.records import ImageArray
from data_gen.runs.receipts import read_receipt
from data_gen.shards import INDEX_FILE, INDEX_SCHEMA, read_table
from data_gen.shards.members import (
    MEMBERS,
    ShardError,
    checked_name,
    decode_image,
    described,
    require_end,
)
from inference.files import file_digest, write_lines
from inference.progress import ProgressBar

SHOWN: Final = 10
"""Faults of one kind that are printed; a report file holds all."""
INFERRED_FROM: Final = 5
"""Samples of the first shard from which stock ``datasets`` infers the fields' types."""


class Faulty(ValueError):
    """A data set has faults."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: ``hash``, ``receipt``, ``member``, ``image``, ``description``, ``duplicate``,
            ``fields``, ``index`` or ``swapped``.
        where: File, or file and key.
        found: What was found, and what was expected.
    """

    kind: str
    where: str
    found: str


@dataclass(kw_only=True)
class Findings:
    """What came to light.

    Attributes:
        pairs: Whole pairs seen.
        faults: What is wrong.
        notes: What could not be looked at, and what is odd but allowed.
    """

    pairs: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str, found: object) -> None:
        """Note one fault."""
        self.faults.append(Fault(kind=kind, where=where, found=str(found)))


def verify(
    data: Path, clip: str | None = None, swaps: bool = True, report: Path | None = None
) -> None:
    """Check a data set: hashes, every member, the index, keys, fields, and swapped pairs.

    The arguments are those of the command, `commands.verify`.

    Raises:
        Faulty: There are faults.
    """
    findings = inspect(data, clip=clip, swaps=swaps)
    for note in findings.notes:
        print(f"note: {note}")
    _print(findings.faults)
    if report is not None:
        write_lines(report, (json.dumps(asdict(fault)) for fault in findings.faults))
    if findings.faults:
        kinds = Counter(fault.kind for fault in findings.faults)
        raise Faulty(
            f"{data}: {len(findings.faults)} faults in {findings.pairs} pairs, {dict(kinds)}"
        )
    print(f"{data}: {findings.pairs} pairs, no fault")


def _print(faults: Iterable[Fault]) -> None:
    of_kind: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        of_kind[fault.kind].append(fault)
    for kind, some in of_kind.items():
        for fault in some[:SHOWN]:
            print(f"{kind}: {fault.where}: {fault.found}")
        if len(some) > SHOWN:
            print(f"{kind}: and {len(some) - SHOWN} more")


def inspect(root: Path, *, clip: str | None = None, swaps: bool = True) -> Findings:
    """Look through a data set; see `verify`.

    Raises:
        FileNotFoundError: There is no such folder, or not one shard in it.
        ValueError: The CLIP cannot be loaded.
    """
    shards = sorted(root.glob("shards/*.tar"))
    if not shards:
        raise FileNotFoundError(f"{root / 'shards'} holds no tar: nothing there to verify")
    findings = Findings()
    _check_receipts(root, findings)
    found = _Pairs(root, findings)
    search = None
    if swaps:
        from data_gen.survey.swaps import SwapSearch  # CLIP takes seconds to import

        search = SwapSearch(clip, lambda where, said: findings.add("swapped", where, said))
    with ProgressBar(total=found.index.table.num_rows or None, desc="pairs", unit="pair") as bar:
        for path in shards:
            for where, description, images in found.of(path):
                if search is not None:
                    search.add(where, description, images)
                bar.update()
    if search is not None:
        findings.notes += search.finish()
    found.index.finish()
    return findings


# ---------------------------------------------------------------- receipts


def _check_receipts(root: Path, findings: Findings) -> None:
    """Hold every file against its receipt, and every tar against the receipts."""
    paths = sorted((root / "receipts").glob("*.json"))
    if not paths:
        findings.notes.append("there are no receipts, so no hash could be compared")
        return
    named: set[str] = set()
    for path in ProgressBar(paths, desc="hashes", unit="receipt"):
        try:
            receipt = read_receipt(path)
        except ValueError as error:
            findings.add("receipt", path.name, error)
            continue
        if receipt is None:
            continue
        if receipt.failed:
            findings.add("receipt", path.name, "prompts of this unit failed: run again")
        for name, digest in receipt.files.items():
            named.add(name)
            _check_file(root, name, digest, findings)
    for path in sorted(root.glob("shards/*")):
        if (name := f"shards/{path.name}") not in named:
            findings.add("receipt", name, "no receipt names it, and stock readers would read it")


def _check_file(root: Path, name: str, digest: str, findings: Findings) -> None:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        findings.add("receipt", name, "a receipt names a path outside the data set")
    elif not (root / place).is_file():
        findings.add("hash", name, "a receipt names it, but it is not there")
    elif (found := file_digest(root / place)) != digest:
        findings.add("hash", name, f"SHA-256 {found[:16]}…, its receipt says {digest[:16]}…")


# ---------------------------------------------------------------- pairs

Offsets = dict[str, int]
Images = tuple[ImageArray, ImageArray]


class _Pairs:
    """Goes through the tars and remembers what must agree between pairs."""

    def __init__(self, root: Path, findings: Findings) -> None:
        self.root, self.findings = root, findings
        self.index = _Index(root, findings)
        self.shard_of: dict[str, str] = {}
        self.fields: set[str] = set()
        self.untyped: set[str] = set()

    def of(self, path: Path) -> Iterator[tuple[str, dict[str, Any], Images]]:
        """Yield the whole pairs of a tar: where, description, (source, edited)."""
        name = path.relative_to(self.root).as_posix()
        parts: dict[str, dict[str, Any]] = defaultdict(dict)
        offsets: dict[str, Offsets] = defaultdict(dict)
        rows: dict[str, dict[str, Any]] = {}
        try:
            require_end(path)
        except ShardError as error:
            self.findings.add("member", name, error)
        for key, extension, member, content in self._members(path, name):
            offsets[key] |= {f"{extension}_offset": member.offset_data}
            offsets[key] |= {f"{extension}_size": member.size}
            parts[key][extension] = content
            if len(parts[key]) == len(MEMBERS):
                whole = parts[key]
                parts[key] = dict.fromkeys(MEMBERS)  # only the names are still of use
                if whole["json"] is not None:
                    rows[key] = _row(key, name, whole["json"], offsets[key])
                if self._accept(key, name, whole):
                    yield f"{name}: {key}", whole["json"], (whole["input.jpg"], whole["edited.jpg"])
        for key, found in parts.items():
            if set(found) != set(MEMBERS):
                said = f"has {sorted(found)}, expected {sorted(MEMBERS)}"
                self.findings.add("member", f"{name}: {key}", said)
        self.index.compare(name, parts.keys(), rows)

    def _members(
        self, path: Path, name: str
    ) -> Iterator[tuple[str, str, tarfile.TarInfo, ImageArray | dict[str, Any] | None]]:
        """Yield key, extension, header and what the member holds, None where it is damaged."""
        seen: set[str] = set()
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    try:
                        key, extension = checked_name(member, path)
                    except ShardError as error:
                        self.findings.add("member", name, error)
                        continue
                    if member.name in seen:
                        self.findings.add("duplicate", name, f"{member.name} comes twice")
                        continue
                    seen.add(member.name)
                    file = tar.extractfile(member)
                    content = file.read() if file else b""
                    yield key, extension, member, self._content(content, extension, name, key)
        except (tarfile.TarError, OSError) as error:
            self.findings.add("member", name, f"is no whole tar: {error}")

    def _content(
        self, content: bytes, extension: str, name: str, key: str
    ) -> ImageArray | dict[str, Any] | None:
        where = f"{name}: {key}"
        try:
            if extension == "json":
                return described(content, key)
            return decode_image(content, f"{key}.{extension}")
        except ShardError as error:
            self.findings.add("description" if extension == "json" else "image", where, error)
            return None

    def _accept(self, key: str, shard: str, parts: Mapping[str, Any]) -> bool:
        """Remember a pair; whether all of it can be read."""
        where, description = f"{shard}: {key}", parts["json"]
        if key in self.shard_of:
            self.findings.add("duplicate", where, f"{self.shard_of[key]} has this key too")
        self.shard_of.setdefault(key, shard)
        self.findings.pairs += 1
        if description is None:
            return False
        if description["key"] != key:
            said = f"says its key is {description['key']!r}"
            self.findings.add("description", where, said)
        self._compare_fields(where, description)
        return all(parts[extension] is not None for extension in MEMBERS)

    def _compare_fields(self, where: str, description: Mapping[str, Any]) -> None:
        """Hold the fields of a pair against those of the first."""
        leaves = dict(_leaves(description))
        self.fields = self.fields or set(leaves)
        if self.fields != set(leaves):
            lacks, has = sorted(self.fields - set(leaves)), sorted(set(leaves) - self.fields)
            said = f"lacks {lacks} and has {has} beside what the first pair has"
            self.findings.add("fields", where, said)
        nulls = {name for name, value in leaves.items() if value is None}
        if self.findings.pairs == 1:
            self.untyped = nulls
        elif self.findings.pairs <= INFERRED_FROM:
            self.untyped &= nulls
        elif late := (self.untyped & set(leaves)) - nulls:
            self.untyped -= late
            self.findings.notes.append(
                f"{sorted(late)} are null in the first {INFERRED_FROM} pairs and not in {where}: "
                "stock `datasets` needs their types from the card that push writes"
            )


class _Index:
    """The index, held against one tar after the other; a missing one is a fault."""

    def __init__(self, root: Path, findings: Findings) -> None:
        self.findings = findings
        self.positions: dict[str, list[int]] = defaultdict(list)
        self.table = INDEX_SCHEMA.empty_table()
        self.is_there = False
        try:
            self.table = read_table(root / INDEX_FILE, INDEX_SCHEMA)
            self.is_there = True
        except (FileNotFoundError, ShardError) as error:
            findings.add("index", INDEX_FILE, error)
        for position, shard in enumerate(self.table["shard"].to_pylist()):
            self.positions[shard].append(position)

    def compare(
        self, shard: str, keys: Iterable[str], expected: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Hold the rows of a shard against its keys, and against what can be said of them."""
        if not self.is_there:
            return
        seen: set[str] = set()
        missing = set(keys)
        positions = pa.array(self.positions.pop(shard, []), pa.int64())
        for row in self.table.take(positions).to_pylist():
            key = row["key"]
            where = f"{shard}: {key}"
            if key in seen:
                self.findings.add("index", where, "stands twice in the index")
            elif key not in missing:
                self.findings.add("index", where, "is in the index, but not in the shard")
            elif wrong := _differences(row, expected.get(key, {})):
                self.findings.add("index", where, wrong)
            seen.add(key)
        for key in sorted(missing - seen):
            self.findings.add("index", f"{shard}: {key}", "is not in the index")

    def finish(self) -> None:
        """Name the shards that only the index knows."""
        for shard, positions in self.positions.items():
            said = f"the index has {len(positions)} pairs of it, but it is not there"
            self.findings.add("index", str(shard), said)


def _leaves(description: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a description, nested ones with dots."""
    for name, value in description.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def _row(
    key: str, shard: str, description: Mapping[str, Any], offsets: Mapping[str, int]
) -> dict[str, Any]:
    """What the index should say of a pair."""
    flat = {**description, **description["scores"]}
    found = {name: flat[name] for name in INDEX_SCHEMA.names if name in flat}
    places = {name.replace(".jpg_", "_"): value for name, value in offsets.items()}
    return {**found, "key": key, "shard": shard, **places}


def _differences(row: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    wrong = [
        f"{name} is {row[name]!r}, the shard has {value!r}"
        for name, value in expected.items()
        if row[name] != value
    ]
    return "; ".join(wrong)
