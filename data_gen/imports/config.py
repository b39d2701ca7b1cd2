"""In which layouts data sets of others come, and how they call what a pair has: the options."""

from dataclasses import dataclass, fields
from typing import Final, Literal

ForeignLayout = Literal[
    "instruct-pix2pix", "jsonl", "columns", "magicbrush", "instructpix2pix-clip-filtered"
]
"""How a data set of others comes, as `data_gen import` knows it."""

LayoutName = Literal["shards"] | ForeignLayout
"""How a data set comes that training reads: as shards of this framework, or as that of others."""

TEXTS: Final = ("instruction", "caption", "edited_caption", "edit_type", "inverse_instruction")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Under which names a data set keeps what a pair has.

    Attributes:
        source: Source picture.
        edited: Edited picture.
        instruction: What to do to the source picture.
        caption: What the source picture shows. This and the next three may be missing: null takes
            a column of the very name if there is one.
        edited_caption: What the edited picture shows.
        edit_type: Kind of edit.
        inverse_instruction: What leads from the edited picture back.
        group: What pairs of one prompt share, such as the id of an image that was edited often.
            Null, as a missing value, groups pairs with the same captions and instruction.
    """

    source: str = "source"
    edited: str = "target"
    instruction: str = "instruction"
    caption: str | None = None
    edited_caption: str | None = None
    edit_type: str | None = None
    inverse_instruction: str | None = None
    group: str | None = None

    def resolved(self, found: set[str], name: str) -> dict[str, str]:
        """Ours to theirs, for what there is.

        Raises:
            ValueError: A column that was asked for is not there.
        """
        asked = {item.name: getattr(self, item.name) for item in fields(self)}
        missing = sorted(theirs for theirs in asked.values() if theirs and theirs not in found)
        if missing:
            raise ValueError(f"{name} has no column {missing}, but {sorted(found)}: set columns")
        own = {name: name for name in TEXTS if name in found}
        return own | {ours: theirs for ours, theirs in asked.items() if theirs}
