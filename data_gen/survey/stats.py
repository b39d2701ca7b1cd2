"""What became of a data set's prompts and candidates: a short table, and pictures.

Works on what is there: a set whose run is not finished, one that was imported, one whose texts are
not at hand. `survey` counts; `survey_plots` draws.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.runs.receipts import Receipt, read_receipt
from data_gen.runs.units import CANDIDATE_SCHEMA
from data_gen.survey.plots import draw
from inference.files import require_writable_folder, written_atomically
from inference.outside import parse_object

UNKNOWN: Final = "unknown"
"""The type of edits that do not say theirs."""
STAGES: Final = ("asked", "triplets", "prompts", "survived", "candidates", "kept")


@dataclass(kw_only=True)
class Survey:
    """What was counted.

    Attributes:
        captions: Captions collected; None where they are not at hand.
        stages: Name of `STAGES` -> edit type -> how many. Asked are answers of the language model,
            prompts those that were rendered or imported, survived those with a pair kept.
        refusals: Why answers were turned down -> how many.
        reasons: Why candidates were not kept -> how many.
        failed: Prompts that failed and will be made again.
        candidates: Every candidate, the columns of `units.CANDIDATE_SCHEMA`.
    """

    captions: int | None = None
    stages: dict[str, Counter[str]] = field(
        default_factory=lambda: {stage: Counter() for stage in STAGES}
    )
    refusals: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    candidates: "pa.Table" = field(default_factory=CANDIDATE_SCHEMA.empty_table)

    @property
    def edit_types(self) -> list[str]:
        """All edit types, the most frequent first."""
        total: Counter[str] = Counter()
        for counts in self.stages.values():
            total.update(counts)
        return [name for name, _ in total.most_common()]


def stats(data: Path, output: Path) -> None:
    """Count and draw what became of prompts and candidates, by stage and edit type.

    The arguments are those of the command, `commands.stats`.

    Raises:
        FileNotFoundError: The folder holds neither texts nor receipts.
        ValueError: A file in it is not what it should be.
    """
    require_writable_folder(output)
    found = survey(data)
    rows = table(found)
    with (
        written_atomically(output / "survival.csv") as path,
        path.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows(rows)
    print(_aligned(rows))
    for what, counts in (("answers", found.refusals), ("candidates", found.reasons)):
        if counts:
            print(
                f"{what} not kept: " + "; ".join(f"{n} {why}" for why, n in counts.most_common(8))
            )
    if found.failed:
        print(f"{found.failed} prompts failed: run again to make them")
    pictures = draw(found.candidates, found.stages, found.reasons, found.edit_types, output)
    print(f"pictures: {', '.join(map(str, pictures)) or 'none, as there are no candidates yet'}")


def survey(root: Path) -> Survey:
    """Count what lies in a data set's folder; see `stats`."""
    found = Survey()
    receipts = list(_receipts(root))
    if not receipts and not (root / "captions.jsonl").is_file():
        raise FileNotFoundError(f"{root} holds neither receipts nor captions.jsonl: no data set")
    if (root / "captions.jsonl").is_file():
        found.captions = sum(1 for _ in _lines(root / "captions.jsonl"))
    for entry in _lines(root / "instructions.jsonl"):
        if "answer" in entry:  # the rest of the journal is about money, rounds and the endpoint
            found.stages["asked"][_kind(entry)] += 1
            if entry.get("rejected"):
                found.refusals[str(entry["rejected"])] += 1
    for triplet in _lines(root / "triplets.jsonl"):
        found.stages["triplets"][_kind(triplet)] += 1
    _count_candidates(found, root, receipts)
    return found


def _count_candidates(found: Survey, root: Path, receipts: list[Receipt]) -> None:
    parts = [
        pq.read_table(root / name, schema=CANDIDATE_SCHEMA)
        for receipt in receipts
        for name in receipt.files
        if name.startswith("candidates/") and (root / name).is_file()
    ]
    found.candidates = pa.concat_tables([CANDIDATE_SCHEMA.empty_table(), *parts])
    outcomes = {name: one for receipt in receipts for name, one in receipt.prompts.items()}
    kept = found.candidates.filter(pc.is_null(found.candidates["reason"]))
    for stage, rows in (("candidates", found.candidates), ("kept", kept)):
        for row in rows.group_by("edit_type").aggregate([([], "count_all")]).to_pylist():
            found.stages[stage][_kind(row)] += row["count_all"]
    prompts = found.candidates.group_by(["group", "edit_type"]).aggregate([])
    types = {row["group"]: _kind(row) for row in prompts.to_pylist()}
    for group, outcome in outcomes.items():
        kind = types.get(group, UNKNOWN)
        found.stages["prompts"][kind] += outcome.status != "failed"
        found.stages["survived"][kind] += outcome.status == "passed"
        found.failed += outcome.status == "failed"
        found.reasons.update(outcome.reasons)


def table(found: Survey) -> list[list[str]]:
    """The survey as rows of text, a header first and the sums last."""
    stages = [stage for stage in STAGES if found.stages[stage]]
    rows = [["edit type", *stages, "kept of candidates", "prompts survived"]]
    for kind in [*found.edit_types, None]:
        counts = {
            stage: found.stages[stage].total() if kind is None else found.stages[stage][kind]
            for stage in STAGES
        }
        rows.append(
            [
                kind or "all",
                *(str(counts[stage]) for stage in stages),
                _share(counts["kept"], counts["candidates"]),
                _share(counts["survived"], counts["prompts"]),
            ]
        )
    return rows


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]))
    return "\n".join(lines)


def _kind(record: Mapping[str, Any]) -> str:
    return str(record.get("edit_type") or UNKNOWN)


def _receipts(root: Path) -> Iterator[Receipt]:
    for path in sorted((root / "receipts").glob("*.json")):
        if receipt := read_receipt(path):
            yield receipt


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a jsonl; its last line may be torn, as a run may be writing it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield parse_object(line, f"{path}, line {number}")
