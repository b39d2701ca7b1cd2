"""What a text says, as labels: the auxiliary task that teaches the text tower every word.

The text encoder stays frozen when the editor is trained, so it must know the words of instructions
as well as those of captions beforehand, as CLIP does for Stable Diffusion. Here it learns to tell,
from its pooled output, each attribute that a caption gives and each part of an instruction.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.shapes.captions import Description, FigureDescription
from inference.shapes.edits import ATTRIBUTES, EDIT_TYPES, Edit
from inference.shapes.vocabulary import (
    PLACES,
    SIZES,
    STYLES,
    TRAIN_COLOURS,
    TRAIN_PATTERNS,
    TRAIN_SHAPES,
)

UNSAID: Final = "-"
FIGURE_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "shape": TRAIN_SHAPES,
    "colour": TRAIN_COLOURS,
    "pattern": TRAIN_PATTERNS,
    "size": SIZES,
    "place": PLACES,
}
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    **{
        f"{figure} {name}": (UNSAID, *values)
        for figure in ("first", "second", "added", "new")
        for name, values in FIGURE_FIELDS.items()
    },
    "background": TRAIN_COLOURS,
    "style": STYLES,
    "kind": EDIT_TYPES,
    "target": (UNSAID, *TRAIN_SHAPES),
    "target colour": (UNSAID, *TRAIN_COLOURS),
    "new background": (UNSAID, *TRAIN_COLOURS),
    "new style": (UNSAID, *STYLES),
}
"""Everything that may be asked of a text, and the possible answers."""

IGNORED: Final = -100


def said_by_caption(description: Description) -> dict[str, str]:
    """What a caption says, by the names of `FIELDS`."""
    said = {"background": description.background, "style": description.style}
    for position, name in enumerate(("first", "second")):
        present = position < len(description.figures)
        said |= _figure(name, description.figures[position] if present else None)
    return said


def said_by_instruction(edit: Edit, named_colour: str | None) -> dict[str, str]:
    """What an instruction says, by the names of `FIELDS`.

    Args:
        edit: What it asks for.
        named_colour: The colour by which it names its target, if it does.
    """
    said = {"kind": str(edit.kind), "target": edit.target or UNSAID}
    said |= {"target colour": named_colour or UNSAID} | _figure("added", edit.figure)
    said |= _figure("new", None) | {"new background": UNSAID, "new style": UNSAID}
    if edit.value is not None:
        said[f"new {ATTRIBUTES.get(edit.kind, edit.kind)}"] = edit.value
    return said


def labels(sayings: Sequence[Mapping[str, str]]) -> Tensor:
    """(B, fields) indices into each field's answers; `IGNORED` where a text is not asked."""
    rows = [
        [values.index(said[name]) if name in said else IGNORED for name, values in FIELDS.items()]
        for said in sayings
    ]
    return torch.tensor(rows)


class SayingHeads(nn.Module):
    """One linear layer from a pooled text embedding to the answers of all `FIELDS`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(values) for values in FIELDS.values()]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, pooled: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over the fields asked, and the share answered right.

        Args:
            pooled: (B, width).
            wanted: (B, fields), from `labels`.
        """
        losses, hits, asked = [], [], []
        for answers, target in zip(
            self.linear(pooled).split(self.sizes, dim=1), wanted.unbind(1), strict=True
        ):
            losses.append(F.cross_entropy(answers, target, ignore_index=IGNORED, reduction="sum"))
            hits.append((answers.argmax(dim=1) == target).sum())
            asked.append((target != IGNORED).sum())
        count = torch.stack(asked).sum()
        return torch.stack(losses).sum() / count, torch.stack(hits).sum() / count


def _figure(name: str, figure: FigureDescription | None) -> dict[str, str]:
    return {
        f"{name} {field}": (getattr(figure, field) or UNSAID) if figure else UNSAID
        for field in FIGURE_FIELDS
    }
