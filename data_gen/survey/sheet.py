"""A contact sheet: one HTML file that shows pairs of a data set, kept and turned down.

The page needs nothing but itself: pictures are inline, texts are escaped, and its policy lets no
script run but its own. It holds a sample, drawn with a seed, so that a browser bears it.
"""

import base64
import difflib
import io
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from data_gen.records import ImageArray, ImagePair
from data_gen.shards import (
    INDEX_FILE,
    INDEX_SCHEMA,
    IndexRow,
    read_pair,
    read_table,
    scan_shard,
)
from data_gen.shards.members import ShardError
from data_gen.survey.fates import recipe_key
from data_gen.survey.pages import made_here, render_page
from inference.files import require_writable, written_atomically
from inference.number_types import Count, PixelCount, Seed, checks_numbers
from inference.progress import ProgressBar

SCRIPT: Final = Path(__file__).with_name("sheet.js")
STYLE: Final = Path(__file__).with_name("sheet.css")
TYPES_SHOWN: Final = 24
"""Edit types that get a button; pairs of the others share one."""
OTHER: Final = "other"
UNKNOWN: Final = "unknown"
T = TypeVar("T")


class Piece(NamedTuple):
    """A run of words of one caption, and whether the other lacks it."""

    text: str
    own: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """One pair on the sheet; empty texts and missing numbers are left out of it.

    Attributes:
        key, instruction: Of the pair.
        caption, edited_caption: In pieces.
        kind: Its edit type, or `OTHER`.
        numbers: Label -> score, p or guidance.
        reason: Why it was turned down; None where it was kept.
        source, edited: The pictures as data URIs.
    """

    key: str
    instruction: str
    caption: Sequence[Piece]
    edited_caption: Sequence[Piece]
    kind: str
    numbers: Mapping[str, float]
    reason: str | None
    source: str
    edited: str

    @property
    def verdict(self) -> str:
        """What became of the pair, in words."""
        return "kept" if self.reason is None else f"turned down: {self.reason}"

    @property
    def recipe_key(self) -> str | None:
        """The key of the recipe that turned it down, where that is known."""
        return None if self.reason is None else recipe_key(self.reason)


@checks_numbers
def sheet(
    data: Path,
    output: Path,
    pairs: Count = 240,
    rejected: Count = 120,
    seed: Seed = 0,
    size: PixelCount = 256,
    links: dict[str, str] | None = None,
) -> None:
    """Write a contact sheet of a data set: one HTML file, to be opened in a browser.

    The arguments are those of the command, `commands.sheet`.

    Raises:
        FileNotFoundError: The folder holds no pairs.
        ValueError: An index in it is damaged, or a number is out of range.
        OSError: The page cannot be written.
    """
    if pairs < 1 or rejected < 0 or not 16 <= size <= 1024:
        raise ValueError(
            f"pairs, rejected and size are {pairs}, {rejected} and {size}; expected at least 1, "
            "at least 0 and 16 to 1024"
        )
    require_writable(output)
    unreadable = Counter[str]()
    kept_table, rejected_rows = _kept(data, unreadable), _rejected(data, unreadable)
    if not kept_table.num_rows and not rejected_rows:
        raise FileNotFoundError(f"{data} holds no pairs to show")
    rng = random.Random(f"sheet/{seed}")
    places = _sample(range(kept_table.num_rows), pairs, rng)
    some = kept_table.take(pa.array(places, pa.int64())).to_pylist()
    chosen = [IndexRow(**row) for row in some] + _sample(rejected_rows, rejected, rng)
    reasons = _reasons(data, [row.key for row in chosen])
    cards = []
    for row in ProgressBar(chosen, desc="sheet", unit="pair"):
        try:
            pair = read_pair(data, row)
        except (ShardError, FileNotFoundError) as error:
            unreadable[str(error)] += 1
            continue
        cards.append(_card(pair, _reason(row, reasons), size))
    totals = {
        "kept": kept_table.num_rows,
        "rejected": len(rejected_rows),
        "unreadable": unreadable.total(),
    }
    page = _page(data, cards, totals, links or {})
    with written_atomically(output) as path:
        path.write_text(page, encoding="utf-8")
    for problem, count in unreadable.most_common(5):
        print(f"not shown, {count} times: {problem}")
    print(f"{output}: {len(cards)} pairs, {len(page) / 2**20:.1f} MiB")


# ---------------------------------------------------------------- which pairs


def _kept(root: Path, unreadable: Counter[str]) -> "pa.Table":
    """The index, or the units' own while there is none; of a key that stands twice the first."""
    paths = [root / INDEX_FILE]
    if not paths[0].is_file():
        paths = sorted(root.glob("shards/*.parquet"))
    parts = [read_table(path, INDEX_SCHEMA) for path in paths]
    table = pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts])
    first = {key: row for row, key in reversed([*enumerate(table["key"].to_pylist())])}
    if again := table.num_rows - len(first):
        unreadable["its key stands twice in the index"] += again
    return table.take(pa.array(sorted(first.values()), pa.int64()))


def _rejected(root: Path, unreadable: Counter[str]) -> list[IndexRow]:
    rows: list[IndexRow] = []
    faults: list[ShardError] = []
    for path in ProgressBar(sorted(root.glob("rejected/*.tar")), desc="rejected", unit="shard"):
        try:
            rows += scan_shard(path, path.relative_to(root).as_posix(), faults)
        except ShardError as error:
            faults.append(error)
    unreadable.update(map(str, faults))
    return rows


def _reasons(root: Path, keys: Sequence[str]) -> dict[str, str]:
    """Key -> why a candidate was turned down, of those keys."""
    wanted = pa.array(keys, pa.string())
    found: dict[str, str] = {}
    for path in sorted(root.glob("candidates/*.parquet")):
        try:
            table = pq.read_table(path, columns=["key", "reason"])
            some = table.filter(pc.is_in(table["key"], wanted))
        except pa.ArrowException as error:
            raise ShardError(f"{path} is no table of candidates: {error}") from error
        found |= {row["key"]: row["reason"] for row in some.to_pylist() if row["reason"]}
    return found


def _reason(row: IndexRow, reasons: Mapping[str, str]) -> str | None:
    if row.shard.startswith("rejected/"):
        return reasons.get(row.key, "turned down, the reason is not at hand")
    return None


def _sample(items: Sequence[T], count: int, rng: random.Random) -> list[T]:
    return rng.sample(items, min(count, len(items)))


# ---------------------------------------------------------------- the page


def _card(pair: ImagePair, reason: str | None, size: int) -> Card:
    triplet = pair.triplet
    scores = asdict(pair.scores) if pair.scores else {}
    numbers = {
        "directional": scores.get("directional"),
        "image": scores.get("image_image"),
        "text": scores.get("text_source"),
        "edited text": scores.get("text_edited"),
        "surprise": scores.get("surprise"),
        "aesthetic": scores.get("aesthetic"),
        "DINO": scores.get("dino"),
        "judge": scores.get("judge"),
        "p": pair.p,
        "guidance": pair.guidance,
    }
    return Card(
        key=pair.key,
        instruction=triplet.instruction,
        caption=list(_pieces(triplet.edited_caption, triplet.caption)),
        edited_caption=list(_pieces(triplet.caption, triplet.edited_caption)),
        kind=triplet.edit_type or UNKNOWN,
        numbers={name: value for name, value in numbers.items() if value is not None},
        reason=reason,
        source=_data_uri(pair.source, size),
        edited=_data_uri(pair.edited, size),
    )


def _pieces(other: str, caption: str) -> Iterator[Piece]:
    """A caption, cut where it leaves the other one and comes back."""
    theirs, own = other.split(), caption.split()
    matcher = difflib.SequenceMatcher(a=theirs, b=own, autojunk=False)
    for what, _, _, start, end in matcher.get_opcodes():
        if start < end:
            yield Piece(" ".join(own[start:end]), what != "equal" and bool(theirs))


def _data_uri(pixels: ImageArray, size: int) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _page(
    data: Path, cards: Sequence[Card], totals: Mapping[str, int], links: Mapping[str, str]
) -> str:
    kinds = Counter(card.kind for card in cards)
    shown = [kind for kind, _ in kinds.most_common(TYPES_SHOWN)]
    counts = {kind: kinds[kind] for kind in shown}
    if more := kinds.total() - sum(counts.values()):
        counts[OTHER] = more
    return render_page(
        "sheet.html.j2",
        script=SCRIPT.read_text(encoding="utf-8"),
        style=STYLE.read_text(encoding="utf-8"),
        name="/".join(data.resolve().parts[-2:]),  # not the whole path: pages are passed on
        made=made_here(),
        links=links,
        cards=cards,
        kinds=counts,
        other=OTHER,
        turned_down=sum(card.reason is not None for card in cards),
        totals=totals,
    )
