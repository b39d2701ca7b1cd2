"""The card of a published data set: README.md with the front matter that the hub reads.

Whatever comes from captions, types or names is somebody's text: it is written such that Markdown
and HTML see words and nothing else.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from huggingface_hub import DatasetCardData
from markupsafe import Markup

from data_gen.shards import INDEX_FILE, INDEX_SCHEMA, IndexRow, read_members, read_table
from data_gen.shards.members import SCORES
from inference.files import written_atomically

TEMPLATE: Final = Path(__file__).with_name("card.md.j2")
EXAMPLES: Final = 6
_SIZES: Final = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_MARKS: Final = re.compile(r"([!#$*+\-./:@\[\\\]^_`{|}~])")
"""What Markdown reads as more than a mark: emphasis, links, tables, mentions, mathematics."""
_NUMBERS: Final = {"seed_index": "int64", "branch": "int64", "p": "float64", "guidance": "float64"}


def write_card(folder: Path, *, name: str, terms: str, recipe: str | None) -> None:
    """Write ``README.md`` beside the shards and index of a folder.

    Args:
        folder: The folder; its ``index.parquet`` and shards are read.
        name: The data set's name.
        terms: The license, by the hub's name of it.
        recipe: The recipe that made it, YAML; None where there is none.

    Raises:
        ShardError: The index or a shard is damaged.
    """
    table = read_table(folder / INDEX_FILE, INDEX_SCHEMA)
    rows = [IndexRow(**row) for row in table.to_pylist()]
    prompts = list({row.group: row for row in rows}.values())
    some = prompts[:: max(1, len(prompts) // EXAMPLES)][:EXAMPLES]
    examples = [_description(folder, row) for row in some]
    shards = sorted(folder.glob("shards/*.tar"))
    size = sum(path.stat().st_size for path in shards)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["words"] = words
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        front=_front_matter(name, terms, len(rows), size, examples[0]).to_yaml(),
        name=name,
        license=terms,
        pairs=len(rows),
        groups=len(set(table["group"].to_pylist())),
        shards=len(shards),
        size=_size(size),
        types=Counter(row.edit_type or "unknown" for row in rows).most_common(),
        scores=_quantiles(table),
        provenance=_provenance(folder, rows),
        examples=examples,
        recipe=None if recipe is None else recipe.strip(),
        fence=_fence(recipe or ""),
    )
    with written_atomically(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


def words(text: object) -> Markup:
    """Escape somebody's text for Markdown and HTML: one line of nothing but words."""
    plain = "".join(character if character.isprintable() else " " for character in str(text))
    marked = _MARKS.sub(r"\\\1", " ".join(plain.split()))
    # Quotes are harmless here, and an entity in place of each apostrophe is hard to read.
    escaped = marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(escaped)  # noqa: S704


def _fence(text: str) -> str:
    """A code fence longer than any in the text."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def _description(folder: Path, row: IndexRow) -> dict[str, Any]:
    return dict(json.loads(read_members(folder, row)["json"]))


def _front_matter(
    name: str, terms: str, pairs: int, size: int, example: Mapping[str, Any]
) -> DatasetCardData:
    """What the hub and `datasets` read: with types, as nulls in the first pairs would hide them."""
    features = [
        {"name": "input.jpg", "dtype": "image"},
        {"name": "edited.jpg", "dtype": "image"},
        {"name": "json", "struct": _struct(example)},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
    return DatasetCardData(
        license=terms,
        pretty_name=name,
        task_categories=["image-to-image"],
        tags=["image-editing", "instruct-pix2pix", "webdataset", "emend"],
        size_categories=next((text for most, text in _SIZES if pairs < most), "n>10M"),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "shards/*.tar"}],
            }
        ],
        dataset_info={
            "features": features,
            "splits": [{"name": "train", "num_bytes": size, "num_examples": pairs}],
            "download_size": size,
            "dataset_size": size,
        },
    )


def _struct(example: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The types of a pair's JSON: texts, but for what is known to be numbers."""
    fields: list[dict[str, Any]] = []
    for key, value in example.items():
        if key == "scores":
            struct = [{"name": score, "dtype": "float64"} for score in value]
            fields.append({"name": key, "struct": struct})
        elif isinstance(value, Mapping):
            fields.append({"name": key, "struct": _struct(value)})
        else:
            fields.append({"name": key, "dtype": _NUMBERS.get(key, "string")})
    return fields


def _quantiles(table: Any) -> dict[str, list[str]]:
    """Score -> its 5 %, 50 % and 95 % quantiles, where there are scores."""
    found: dict[str, list[str]] = {}
    for score in SCORES:
        values = np.array(table[score].drop_null().to_pylist(), float)
        if values.size:
            found[score] = [f"{value:.3g}" for value in np.quantile(values, [0.05, 0.5, 0.95])]
    return found


def _provenance(folder: Path, rows: list[IndexRow]) -> dict[str, list[str]]:
    """What the first pair of each shard says of where it comes from: name -> values."""
    found: dict[str, dict[str, None]] = {}
    for row in {row.shard: row for row in reversed(rows)}.values():
        for name, value in dict(_description(folder, row).get("provenance") or {}).items():
            if name not in ("where", "extra"):
                found.setdefault(name, {})[str(value)] = None
    return {name: list(values) for name, values in found.items()}


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
