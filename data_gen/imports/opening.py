"""Open a data set of others by the name of its layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from data_gen.imports.config import Columns, ForeignLayout
from data_gen.imports.layouts import JsonLines, Layout, Table
from data_gen.imports.seeds_folder import SeedsFolder

_PRESETS: Final[Mapping[str, tuple[str, Columns]]] = {
    "magicbrush": (
        "osunlp/MagicBrush",
        Columns(source="source_img", edited="target_img", instruction="instruction"),
    ),
    "instructpix2pix-clip-filtered": (
        "timbrooks/instructpix2pix-clip-filtered",
        Columns(
            source="original_image",
            edited="edited_image",
            instruction="edit_prompt",
            caption="original_prompt",
            edited_caption="edited_prompt",
        ),
    ),
}


def completed(
    layout: ForeignLayout, source: str | None, columns: Columns | None
) -> tuple[str, Columns]:
    """Fill in what a layout knows by itself: where its data set is, and its columns.

    Raises:
        ValueError: There is no source.
    """
    if layout in _PRESETS:
        source, columns = source or _PRESETS[layout][0], columns or _PRESETS[layout][1]
    if source is None:
        raise ValueError(f"the layout {layout} needs a source: a folder, a file or a hub name")
    return source, columns or Columns()


def opened(layout: ForeignLayout, source: str, columns: Columns, split: str) -> Layout:
    """Open it; its pairs can then be read one at a time."""
    if layout == "instruct-pix2pix":
        return SeedsFolder(Path(source))
    if layout == "jsonl":
        return JsonLines(Path(source), columns)
    return Table(source, split, columns)
