"""What became of a data set's prompts and candidates: a short table, and pictures.

Works on what is there: a set whose run is not finished, one that was imported, one whose texts are
not at hand. `survey` counts, `plots` draws, `pages` makes the page.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.runs.receipts import Receipt, read_receipt
from data_gen.runs.units import CANDIDATE_SCHEMA
from data_gen.survey.fates import fate, recipe_key
from data_gen.survey.pages import FOLDER, inline_svg, made_here, render_page
from data_gen.survey.plots import draw, panels
from inference.files import require_writable_folder, written_atomically
from inference.outside import parse_object
from inference.proportions import wilson_interval

UNKNOWN: Final = "unknown"
"""The type of edits that do not say theirs."""
REASONS_SHOWN: Final = 20
STAGES: Final = (
    "asked",
    "triplets",
    "prompts",
    "survived",
    "candidates",
    "kept",
    "outranked",
    "turned down",
)


@dataclass(kw_only=True)
class Survey:
    """What was counted.

    Attributes:
        captions: Captions collected; None where they are not at hand.
        stages: Name of `STAGES` -> edit type -> how many. Asked are answers of the language model,
            prompts those that were rendered or imported, survived those with a pair kept. Of the
            candidates, outranked are those that failed nothing and were not needed: not the best p
            of a seed, or never finished as a larger p passed.
        refusals: Why answers were turned down -> how many.
        reasons: Why candidates were not kept -> how many.
        failed: Prompts that failed and will be made again.
        seconds: What the pairs' units took, by their receipts.
        candidates: Every candidate, the columns of `units.CANDIDATE_SCHEMA`.
    """

    captions: int | None = None
    stages: dict[str, Counter[str]] = field(
        default_factory=lambda: {stage: Counter() for stage in STAGES}
    )
    refusals: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    seconds: float = 0.0
    candidates: "pa.Table" = field(default_factory=CANDIDATE_SCHEMA.empty_table)

    @property
    def edit_types(self) -> list[str]:
        """All edit types, the most frequent first."""
        total: Counter[str] = Counter()
        for counts in self.stages.values():
            total.update(counts)
        return [name for name, _ in total.most_common()]


def stats(data: Path, output: Path, links: dict[str, str] | None = None) -> None:
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
    page = _page(data, found, links or {})
    with written_atomically(output / "stats.html") as path:
        path.write_text(page, encoding="utf-8")
    print(f"pictures: {', '.join(map(str, pictures)) or 'none, as there are no candidates yet'}")
    print(f"page: {output / 'stats.html'}")


def _page(data: Path, found: Survey, links: Mapping[str, str]) -> str:
    header, *rows = table(found)
    every = found.reasons.total()
    return render_page(
        "stats.html.j2",
        style=(FOLDER / "stats.css").read_text(encoding="utf-8"),
        name="/".join(data.resolve().parts[-2:]),  # not the whole path: pages are passed on
        links=links,
        made=made_here(),
        minutes=found.seconds / 60,
        header=header,
        rows=rows,
        reasons=[
            {
                "reason": reason,
                "key": recipe_key(reason) or "",
                "fate": fate(reason),
                "count": count,
                "share": share_in_words(count, every),
                "part": count / every,
            }
            for reason, count in found.reasons.most_common(REASONS_SHOWN)
        ],
        refusals=found.refusals.most_common(REASONS_SHOWN),
        failed=found.failed,
        panels=[
            inline_svg(figure, said)
            for said, figure in panels(found.candidates, found.reasons, found.edit_types)
        ],
    )


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
    found.seconds = sum(receipt.seconds.get("total", 0.0) for receipt in receipts)
    outcomes = {name: one for receipt in receipts for name, one in receipt.prompts.items()}
    for row in found.candidates.select(["edit_type", "reason"]).to_pylist():
        found.stages["candidates"][_kind(row)] += 1
        found.stages[fate(row["reason"])][_kind(row)] += 1
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
                share_in_words(counts["kept"], counts["candidates"]),
                share_in_words(counts["survived"], counts["prompts"]),
            ]
        )
    return rows


def share_in_words(part: int, whole: int) -> str:
    """A share with its 95 % interval (Wilson); empty of nothing."""
    if not whole:
        return ""
    low, high = wilson_interval(part, whole)
    return f"{100 * part / whole:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


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
