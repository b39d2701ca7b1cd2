"""Make one unit of the data set, and publish the data set once all its units are made.

A data set's folder:

    shards/<unit>-<fingerprint>.tar          the pairs that were kept
    shards/<unit>-<fingerprint>.parquet      their index
    candidates/<unit>-<fingerprint>.parquet  every candidate: scores, and why it was not kept
    rejected/<unit>-<fingerprint>.tar        a few pairs that failed something, and what
    receipts/<unit>.json                     written last
    index.parquet                            the index of all shards, replaced in one piece
    import.json                              of pairs that others made: where they come from
"""

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.files import staged
from data_gen.records import EditTriplet, GivenUp, ImagePair, Rendered, Verdict
from data_gen.runs.receipts import Outcome, Receipt, Unit, failure
from data_gen.shards import (
    INDEX_FILE,
    INDEX_SCHEMA,
    read_table,
    scan_shard,
    shard_writer,
    with_digests,
    write_index,
)
from data_gen.shards.members import SCORES
from inference.files import file_digest, is_abandoned, written_atomically
from inference.locks import locked

CANDIDATE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("group", pa.string()),
        ("edit_type", pa.string()),
        ("seed_index", pa.int64()),
        ("branch", pa.int64()),
        ("p", pa.float64()),
        ("guidance", pa.float64()),
        *((score, pa.float64()) for score in SCORES),
        ("reason", pa.string()),
    ]
)
"""A candidate: scores are null where it was given up, the reason is null where it was kept."""

IMPORT_FILE = "import.json"
_FOLDERS = ("shards", "candidates", "rejected")
_LIBRARIES = ("emend", "torch", "diffusers", "transformers", "pillow")


class Paint(Protocol):
    """Renders triplets and judges what came of them."""

    def __call__(
        self, triplets: Sequence[EditTriplet]
    ) -> Iterable[tuple[Rendered, Sequence[Verdict]]]:
        """Yield what came of each triplet, in their order, with one verdict a candidate."""


@dataclass(frozen=True, kw_only=True)
class UnitMaker:
    """Makes units in a data set's folder; making one again gives the same bytes.

    Attributes:
        root: The data set's folder.
        paint: Renders and judges.
        provenance: What every pair says about where it comes from.
        keep_rejected: Pairs that a unit keeps though they failed something, one a triplet.
    """

    root: Path
    paint: Paint
    provenance: Mapping[str, str]
    keep_rejected: int

    def __call__(self, unit: Unit) -> Iterator[Outcome | Receipt]:
        """Make a unit's files.

        A RuntimeError or MemoryError of the renderer (out of memory, a lost device) fails the
        unit's prompts: the receipt says so, no file is written, and the next run makes the unit
        again.

        Yields:
            The outcome of each prompt as it is done, and at the end the receipt, which is for the
            caller to write.

        Raises:
            OSError: The disk is full, or cannot be written.
        """
        start = time.perf_counter()
        spent: dict[str, float] = defaultdict(float)
        outcomes: dict[str, Outcome] = {}
        try:
            with staged(self.root, unit.stem) as folder:
                for triplet, outcome, seconds in self._write(unit, folder):
                    for what, value in seconds.items():
                        spent[what] += value
                    outcomes[triplet.id] = outcome
                    yield outcome
                files = _finish_shards(folder, unit.stem)
        except (RuntimeError, MemoryError) as error:
            yield failure(unit, f"{type(error).__name__}: {error}", _versions())
            return
        hashes = {name: file_digest(self.root / name) for name in files}
        total = time.perf_counter() - start
        seconds = {**spent, "write": total - sum(spent.values()), "total": total}
        yield Receipt(
            unit=unit.name,
            fingerprint=unit.fingerprint,
            files=hashes,
            prompts=outcomes,
            seconds={what: round(value, 3) for what, value in seconds.items()},
            versions=_versions(),
            provenance=self.provenance,
        )

    def _write(
        self, unit: Unit, folder: Path
    ) -> Iterator[tuple[EditTriplet, Outcome, Mapping[str, float]]]:
        """Write a unit's files into a folder, yielding what came of each prompt."""
        candidates: list[dict[str, Any]] = []
        for name in _FOLDERS:
            (folder / name).mkdir()
        with (
            shard_writer(folder / "shards" / f"{unit.stem}.tar", self.provenance) as kept,
            shard_writer(folder / "rejected" / f"{unit.stem}.tar", self.provenance) as shown,
        ):
            for rendered, verdicts in self.paint(unit.triplets):
                for verdict in verdicts:
                    if verdict.reason is None:
                        kept.write(verdict.pair)
                if shown.pairs < self.keep_rejected:
                    for verdict in _first_rejected(verdicts):
                        shown.write_rejected(verdict)
                candidates.extend(map(candidate_row, verdicts))
                candidates.extend(map(_given_up, rendered.given_up))
                yield rendered.triplet, _outcome(rendered, verdicts), rendered.seconds
        table = pa.Table.from_pylist(candidates, schema=CANDIDATE_SCHEMA)
        pq.write_table(table, folder / "candidates" / f"{unit.stem}.parquet")


def _versions() -> dict[str, str]:
    return {library: version(library) for library in _LIBRARIES}


def _finish_shards(folder: Path, stem: str) -> list[str]:
    """Index the unit's shard, drop tars without pairs, and list what remains."""
    for kind in ("shards", "rejected"):
        name = f"{kind}/{stem}.tar"
        rows = scan_shard(folder / name, name)
        if not rows:
            (folder / name).unlink()
        elif kind == "shards":
            write_index((folder / name).with_suffix(".parquet"), rows)
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _first_rejected(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """A rejected pair that may be looked at, if there is one that failed something."""
    rejected = (
        verdict
        for verdict in verdicts
        if verdict.reason is not None
        and not verdict.outranked
        and verdict.pair.scores is not None
        and not verdict.pair.scores.unsafe
    )
    return list(rejected)[:1]


def _outcome(rendered: Rendered, verdicts: Sequence[Verdict]) -> Outcome:
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason is not None)
    reasons.update(lost.reason for lost in rendered.given_up)
    if rendered.reason is not None:
        reasons[rendered.reason] += 1
    kept = sum(verdict.reason is None for verdict in verdicts)
    return Outcome(status="passed" if kept else "rejected", kept=kept, reasons=dict(reasons))


def candidate_row(verdict: Verdict) -> dict[str, Any]:
    """A judged candidate as a row of the table of candidates, see `CANDIDATE_SCHEMA`."""
    scores = {} if verdict.pair.scores is None else asdict(verdict.pair.scores)
    return _drawn(verdict.pair) | scores | {"reason": verdict.reason}


def _given_up(lost: GivenUp) -> dict[str, Any]:
    return _drawn(lost) | {"reason": lost.reason}


def _drawn(candidate: ImagePair | GivenUp) -> dict[str, Any]:
    return {
        "key": candidate.key,
        "group": candidate.triplet.id,
        "edit_type": candidate.triplet.edit_type,
        "seed_index": candidate.seed_index,
        "branch": candidate.branch,
        "p": candidate.p,
        "guidance": candidate.guidance,
    }


def require_not_imported(root: Path) -> None:
    """Require a folder that holds no import: publishing a run's units would delete its shards.

    Raises:
        ValueError: It holds one.
    """
    if (root / IMPORT_FILE).is_file():
        raise ValueError(f"{root} holds pairs that were imported: give another output")


def publish(root: Path, receipts: Sequence[Receipt]) -> int:
    """Make a data set readable: replace its index, then drop what no receipt names.

    Args:
        root: The data set's folder.
        receipts: Those of all units, in the units' order.

    Returns:
        The number of pairs in the index.

    Raises:
        ShardError: A unit's index is damaged.
        ValueError: Not one pair was kept.
    """
    named = {name for receipt in receipts for name in receipt.files}
    parts = [
        read_table(root / name, INDEX_SCHEMA)
        for receipt in receipts
        for name in sorted(receipt.files)
        if name.startswith("shards/") and name.endswith(".parquet")
    ]
    if not parts:
        raise ValueError(f"no pair passed the filter, so {root} holds no data set")
    digests = {
        name: digest
        for receipt in receipts
        for name, digest in receipt.files.items()
        if name.startswith("shards/") and name.endswith(".tar")
    }
    table = with_digests(pa.concat_tables(parts), digests)
    with locked(root / ".lock"):  # the last two partitions may come here together
        with written_atomically(root / INDEX_FILE) as temporary:
            pq.write_table(table, temporary)
        _prune(root, named, {receipt.unit for receipt in receipts})
    return int(table.num_rows)


def _prune(root: Path, named: set[str], units: set[str]) -> None:
    """Delete what other recipes and killed runs left: stock readers take every tar of a folder."""
    for kind in _FOLDERS:
        for path in (*root.glob(f"{kind}/*.tar"), *root.glob(f"{kind}/*.parquet")):
            if path.relative_to(root).as_posix() not in named:
                path.unlink()
    for path in (root / "receipts").glob("*.json"):
        if path.stem not in units:
            path.unlink()
    # Another job may still be at work here, on this machine or another: what it writes is its own.
    for path in filter(is_abandoned, (*root.glob(".*.tmp"), *root.glob("receipts/.*.tmp"))):
        path.unlink(missing_ok=True)
    for folder in filter(is_abandoned, root.glob(".tmp/*")):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # not there, or not empty
        (root / ".tmp").rmdir()
