"""Captions from a Hugging Face data set: one of the Hub, or a folder.

The library does the reading, and runs no code that comes with a data set: versions that can are not
supported. A token, where one is needed, comes from the environment or from `hf auth login`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_gen.captions.config import DatasetKnobs
from data_gen.captions.sources import (
    Advance,
    Column,
    Found,
    Source,
    check_type,
    choose_column,
    found_in_arrow,
)

if TYPE_CHECKING:  # it takes seconds to import, and few need it
    import datasets

_ROWS_PER_BATCH = 1000


def open_dataset(knobs: DatasetKnobs, column: str | None) -> Source:
    """Find a data set and prepare to read one of its columns.

    Args:
        knobs: Which.
        column: The column of the captions, see `choose_column`.

    Raises:
        ValueError: There is no such data set, split or column, or the library cannot read it.
    """
    name = str(knobs.name)
    with _named(name):
        rows = _load(knobs)
        names = rows.column_names or _first_columns(rows)
    if rows.info.builder_name == "csv":
        raise ValueError(
            f"the data set {name} is of CSV or TSV files, where the library lets a stray quote "
            "swallow rows: name the files with captions.file, which counts such rows"
        )
    chosen = choose_column(column, names, name)
    with _named(name):
        rows = _narrowed(rows, knobs, chosen).with_format("arrow")

    def read(advance: Advance) -> Iterator[Found]:
        first = 1
        for table in _tables(rows, name):
            values = table.column(chosen.name)
            check_type(values.type, chosen, name)
            yield from found_in_arrow(name, first, values, chosen.path)
            first += table.num_rows
            advance(table.num_rows)

    return Source(name=name, total=_length(rows, knobs.split), unit="row", read=read)


def _load(knobs: DatasetKnobs, **options: Any) -> "datasets.Dataset | datasets.IterableDataset":
    import datasets

    folder = Path(str(knobs.name))
    if (folder / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(folder)
        if knobs.split not in splits:
            raise ValueError(f"it has no split {knobs.split!r} but {', '.join(splits)}")
        return splits[knobs.split]
    if (folder / "state.json").is_file():
        rows = datasets.load_from_disk(folder)
        if str(rows.split or "train") != knobs.split:
            raise ValueError(f"it has no split {knobs.split!r} but {rows.split or 'one unnamed'}")
        return rows
    return datasets.load_dataset(
        str(knobs.name),
        knobs.config,
        split=knobs.split,
        revision=knobs.revision,
        streaming=knobs.streaming,
        **options,
    )


def _narrowed(
    rows: "datasets.Dataset | datasets.IterableDataset", knobs: DatasetKnobs, column: Column
) -> "datasets.Dataset | datasets.IterableDataset":
    """One column; of parquet the others, often pictures, are then not even fetched."""
    if knobs.streaming and rows.info.builder_name == "parquet":
        rows = _load(knobs, columns=[column.name])
    return rows.select_columns([column.name])


def _first_columns(rows: Any) -> list[str]:
    """Columns of a data set that does not say which it has: those of its first row."""
    first = next(iter(rows.with_format("arrow").iter(batch_size=1)), None)
    return [] if first is None else list(first.column_names)


def _tables(rows: Any, name: str) -> Iterator[pa.Table]:
    """Batches of rows; whatever goes wrong on the way names the data set."""
    with _named(name):
        yield from rows.iter(batch_size=_ROWS_PER_BATCH)


def _length(rows: Any, split: str) -> int | None:
    if hasattr(rows, "__len__"):
        return len(rows)
    said = (rows.info.splits or {}).get(split)
    return said.num_examples or None if said else None


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the data set in whatever the library, its parsers and its network raise."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error  # the library's own words are "an error occurred"
        said = " ".join(str(cause).split())[:500]
        raise ValueError(f"the data set {name} cannot be read: {said}") from error
