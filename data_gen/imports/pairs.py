"""Make a data set of pairs that others made: the same shards, index and receipts as one's own.

What a data set does not say stays unknown, null in the shards. What it says wrongly, or not at
all, is refused pair by pair, counted by reason and listed in ``refused.jsonl``; the rest goes on.
An import that was killed goes on where it was. ``layouts`` says how each layout is read.
"""

import hashlib
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.files import staged
from data_gen.hostile_text import text_fault
from data_gen.imports.config import TEXTS, Columns, ForeignLayout
from data_gen.imports.layouts import Layout, Refused, Said
from data_gen.imports.opening import completed, opened
from data_gen.imports.pictures import BadPicture, Picture, as_jpeg
from data_gen.records import EditTriplet, ImageArray, ImagePair, same_text
from data_gen.runs.receipts import Outcome, Receipt, Unit, done_receipt, plan, write_receipt
from data_gen.runs.units import CANDIDATE_SCHEMA, IMPORT_FILE, publish
from data_gen.shards import scan_shard, shard_writer, write_index
from inference.content_id import content_id
from inference.files import file_digest, require_writable_folder, write_lines
from inference.locks import owned
from inference.number_types import PositiveCount, checks_numbers
from inference.progress import ProgressBar

FORMAT: Final = 2
"""Raised when the same import would give other bytes than before."""
MAX_CHARACTERS: Final = 2000
"""Of a text; people write more than the language model is let to."""
MAX_EXTRA: Final = 2**16
"""Characters of what a data set says beyond what is known here, as JSON."""
ASPECTS_DIFFER: Final = 0.02
"""By how much the aspect ratios of a pair's pictures may differ: training cuts both alike."""
REFUSED_FILE: Final = "refused.jsonl"
_BREAKS: Final = re.compile(r"[\r\n\t]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    """One pair that will be imported if its pictures can be."""

    position: int
    triplet: EditTriplet
    key: str
    seed_index: int
    branch: int
    known: int


@dataclass(kw_only=True)
class _Plan:
    """The pairs by group, what had to be refused, and a digest of all that is said."""

    groups: dict[str, list[_Planned]] = field(default_factory=lambda: defaultdict(list))
    refused: list[dict[str, str]] = field(default_factory=list)
    digest: str = ""


@checks_numbers
def import_pairs(
    layout: ForeignLayout,
    output: Path,
    source: str | None = None,
    columns: Columns | None = None,
    split: str = "train",
    unit_size: PositiveCount = 1000,
) -> None:
    """Import pairs that others made into shards and an index, ready to train on.

    The arguments are those of the command, `commands.import_pairs`.

    Raises:
        ValueError: Not one pair can be imported, or the output holds another data set.
        FileNotFoundError: The source is not there.
        OSError: The output cannot be written, or another process is at work there.
    """
    source, columns = completed(layout, source, columns)
    about = {"layout": layout, "source": source, "split": split, "columns": asdict(columns)}
    _require_free(output, about)
    require_writable_folder(output)
    pairs = opened(layout, source, columns, split)
    for note in pairs.notes():
        print(f"note: {note}")
    found = _read(pairs, about)
    units = plan(
        [some[0].triplet for some in found.groups.values()],
        unit_size=unit_size,
        recipe=found.digest,
    )
    # Shards get published: where a folder lies on this machine is nobody's business.
    named = Path(source).name if Path(source).exists() else source
    with owned(output):
        write_lines(output / IMPORT_FILE, [json.dumps(about)])
        receipts = _make_units(output, units, found, pairs, {"layout": layout, "source": named})
        _finish(output, found, pairs, receipts)


def _require_free(output: Path, about: Mapping[str, Any]) -> None:
    """Require a folder without another data set: publishing drops what no receipt names."""
    path = output / IMPORT_FILE
    if path.is_file():
        if (there := path.read_text().strip()) != json.dumps(about):
            raise ValueError(f"{output} holds the import {there}: give another output")
    elif any((output / name).exists() for name in ("receipts", "shards", "triplets.jsonl")):
        raise ValueError(f"{output} holds a data set that was not imported: give another output")


# ---------------------------------------------------------------- what is said


def _read(layout: Layout, about: Mapping[str, Any]) -> _Plan:
    """Read all that is said, without the pictures, and give each pair its group and key."""
    found, digest = _Plan(), hashlib.sha256(f"{FORMAT} {json.dumps(about)}".encode())
    seen: set[str] = set()
    keys: set[str] = set()
    for position in ProgressBar(range(len(layout)), desc="reading", unit="pair"):
        where = layout.where(position)
        try:
            said = checked(layout.said(position))
            _require_new(where, seen)
        except Refused as reason:
            found.refused.append({"where": where, "reason": str(reason)})
            continue
        digest.update(f"{where} {said}\n".encode("utf-8", "surrogatepass"))
        pair = _planned(position, said, found, keys)
        found.groups[pair.triplet.id].append(pair)
        keys.add(pair.key)
    found.digest = digest.hexdigest()
    return found


def _require_new(where: str, seen: set[str]) -> None:
    if where in seen:
        raise Refused("is listed twice")
    seen.add(where)


def checked(said: Said) -> Said:
    """The same, each text on one line; raises `Refused` where a value cannot be used."""
    texts = {name: _BREAKS.sub(" ", getattr(said, name).strip()) for name in TEXTS}
    for name, text in texts.items():
        fault = text_fault(text, most=MAX_CHARACTERS)
        if fault and (text or name == "instruction"):
            raise Refused(f"its {name.replace('_', ' ')} {fault}")
    if texts["caption"] and same_text(texts["caption"], texts["edited_caption"]):
        raise Refused("its captions are equal")
    if len(_extra(said)) > MAX_EXTRA:
        raise Refused(f"its other fields have more than {MAX_EXTRA} characters")
    if said.p is not None and not 0 <= said.p <= 1:
        raise Refused("its p is not between 0 and 1")
    return replace(said, **texts)  # type: ignore[arg-type]  # texts only


def _planned(position: int, said: Said, found: _Plan, keys: set[str]) -> _Planned:
    triplet = triplet_of(said)
    seed = len(found.groups[triplet.id]) if said.seed is None else said.seed
    branch = 0
    while (key := ImagePair.key_of(triplet.id, seed, branch)) in keys:
        branch += 1
    known = [getattr(said, name) for name in TEXTS if getattr(said, name)]
    known += [value for value in (said.p, said.guidance, said.scores) if value is not None]
    return _Planned(
        position=position,
        triplet=triplet,
        key=key,
        seed_index=seed,
        branch=branch,
        known=len(known),
    )


def triplet_of(said: Said) -> EditTriplet:
    """A pair's triplet, one a prompt: with equal texts, and if they say little, equal source."""
    triplet = EditTriplet.of(**{name: getattr(said, name) for name in TEXTS})
    if said.group is not None:
        return replace(triplet, id=content_id("group", said.group))
    if not (said.caption and said.edited_caption):
        return replace(triplet, id=content_id(triplet.id, said.prompt))
    return triplet


# ---------------------------------------------------------------- units


def _make_units(
    root: Path,
    units: Sequence[Unit],
    found: _Plan,
    layout: Layout,
    provenance: Mapping[str, str],
) -> list[Receipt]:
    """Make the units that are not done; the receipts of all."""
    receipts = []
    with ProgressBar(
        total=sum(map(len, found.groups.values())), desc="importing", unit="pair"
    ) as bar:
        for unit in units:
            mine = [pair for triplet in unit.triplets for pair in found.groups[triplet.id]]
            receipts.append(done_receipt(root, unit) or _make(root, unit, mine, layout, provenance))
            bar.update(len(mine))
    return receipts


def _make(
    root: Path, unit: Unit, pairs: Sequence[_Planned], layout: Layout, provenance: Mapping[str, str]
) -> Receipt:
    """Make a unit: its shard, index and table of candidates, then its receipt."""
    start = time.perf_counter()
    with staged(root, unit.stem) as folder:
        candidates, notes = _write(folder, unit.stem, pairs, layout, provenance)
        made = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    receipt = Receipt(
        unit=unit.name,
        fingerprint=unit.fingerprint,
        files={name.as_posix(): file_digest(root / name) for name in made},
        prompts=_outcomes(candidates),
        seconds={"total": round(time.perf_counter() - start, 3)},
        versions={library: version(library) for library in ("emend", "pillow")},
        notes=dict(notes),
    )
    write_receipt(root, receipt)
    return receipt


def _write(
    folder: Path,
    stem: str,
    pairs: Sequence[_Planned],
    layout: Layout,
    provenance: Mapping[str, str],
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Write a unit's files; what became of each pair, and what was ignored in those kept."""
    for name in ("shards", "candidates"):
        (folder / name).mkdir()
    tar = folder / "shards" / f"{stem}.tar"
    candidates, notes = [], Counter[str]()
    with shard_writer(tar, provenance) as writer:
        # Stock `datasets` infers types from the first pairs it sees: those that know most lead.
        for planned in sorted(pairs, key=lambda pair: (-pair.known, pair.key)):
            said, reason = _said_again(layout, planned), None
            try:
                source, edited = _pictures(layout, planned.position)
            except (Refused, BadPicture) as refused:
                reason = str(refused)
            else:
                pair = _image_pair(planned, said, source.pixels, edited.pixels)
                more = {"where": layout.where(planned.position), "extra": _extra(said)}
                writer.write_imported(pair, source.jpeg, edited.jpeg, more)
                notes.update(note for note in (source.note, edited.note) if note is not None)
            candidates.append(_candidate(planned, said, reason))
    table = pa.Table.from_pylist(candidates, schema=CANDIDATE_SCHEMA)
    pq.write_table(table, folder / "candidates" / f"{stem}.parquet")
    if writer.pairs:
        write_index(tar.with_suffix(".parquet"), scan_shard(tar, f"shards/{tar.name}"))
    else:
        tar.unlink()
    return candidates, notes


def _said_again(layout: Layout, planned: _Planned) -> Said:
    """Read again what was said: to keep all of it would take too much memory."""
    try:
        return checked(layout.said(planned.position))
    except Refused as error:
        where = layout.where(planned.position)
        raise ValueError(f"{where} has changed since it was read: {error}") from error


def _pictures(layout: Layout, position: int) -> tuple[Picture, Picture]:
    """Source and edited picture."""
    source, edited = (as_jpeg(content) for content in layout.pictures(position))
    (height, width), (edited_height, edited_width) = (
        one.pixels.shape[:2] for one in (source, edited)
    )
    one, other = width * edited_height, edited_width * height
    if abs(one - other) > ASPECTS_DIFFER * max(one, other):
        raise Refused("its pictures differ in aspect ratio")
    if np.array_equal(source.pixels, edited.pixels):
        raise Refused("its pictures are equal")
    return source, edited


def _image_pair(planned: _Planned, said: Said, source: ImageArray, edited: ImageArray) -> ImagePair:
    return ImagePair(
        triplet=replace(planned.triplet, **{name: getattr(said, name) for name in TEXTS}),
        key=planned.key,
        source=source,
        edited=edited,
        seed_index=planned.seed_index,
        branch=planned.branch,
        p=said.p,
        guidance=said.guidance,
        scores=said.scores,
    )


def _extra(said: Said) -> str:
    return json.dumps(said.extra, default=str)


def _candidate(planned: _Planned, said: Said, reason: str | None) -> dict[str, Any]:
    return {
        "key": planned.key,
        "group": planned.triplet.id,
        "edit_type": said.edit_type or None,
        "seed_index": planned.seed_index,
        "branch": planned.branch,
        "p": said.p,
        "guidance": said.guidance,
        "reason": reason,
        **(asdict(said.scores) if said.scores else {}),
    }


def _outcomes(candidates: Sequence[Mapping[str, Any]]) -> dict[str, Outcome]:
    """What became of each group."""
    of_group: dict[str, list[str | None]] = defaultdict(list)
    for candidate in candidates:
        of_group[candidate["group"]].append(candidate["reason"])
    return {
        group: Outcome(
            status="passed" if None in reasons else "rejected",
            kept=reasons.count(None),
            reasons=dict(Counter(reason for reason in reasons if reason is not None)),
        )
        for group, reasons in of_group.items()
    }


# ---------------------------------------------------------------- the end


def _finish(root: Path, found: _Plan, layout: Layout, receipts: Sequence[Receipt]) -> None:
    """List every refused pair, publish the rest, and say how many of each."""
    positions = {pair.key: pair.position for pairs in found.groups.values() for pair in pairs}
    refused = list(found.refused)
    for receipt in receipts:
        for name in receipt.files:
            if name.startswith("candidates/"):
                table = pq.read_table(root / name, columns=["key", "reason"])
                refused += [
                    {"where": layout.where(positions[row["key"]]), "reason": row["reason"]}
                    for row in table.to_pylist()
                    if row["reason"] is not None
                ]
    write_lines(root / REFUSED_FILE, map(json.dumps, refused))
    reasons = dict(Counter(refusal["reason"] for refusal in refused).most_common())
    if not any(outcome.kept for receipt in receipts for outcome in receipt.prompts.values()):
        raise ValueError(f"not one of {len(layout)} pairs can be imported: {reasons}")
    kept = publish(root, receipts)
    for note, count in sum((Counter(one.notes) for one in receipts), Counter[str]()).items():
        print(f"note: {count} pictures {note} are read without it")
    print(f"import: {kept} of {len(layout)} pairs, {len(refused)} refused {reasons}")
