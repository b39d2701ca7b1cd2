"""Cross-attention maps of one prompt, rewritten from those of another as their alignment says.

Pure tensors: which rows of a UNet's batch they are of is data, and where maps come from is the
caller's business (`attention`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.alignment import Alignment

RowPairs = tuple[tuple[int, int], ...]
"""(source, target) rows of a UNet's batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossMaps:
    """Cross-attention maps of target rows, rewritten from those of source rows.

    A target's map becomes `A_source @ matrix` in the columns that are taken, and stays its own in
    the others (Prompt-to-Prompt, section 3.2; see `alignment.Alignment`). Columns are then scaled,
    without the rest making up for it, and count as far as their gate is open.

    Attributes:
        rows: E (source, target) rows.
        matrix: (E, L, L), source positions by target positions.
        taken: (E, L) bool.
        scale: (E, L) factors, Prompt-to-Prompt's attention re-weighting; None for 1.
        gate: (E, L) in [0, 1], how much of all this there is; None for 1.
    """

    rows: RowPairs
    matrix: Tensor
    taken: Tensor
    scale: Tensor | None = None
    gate: Tensor | None = None

    @classmethod
    def of(
        cls, edits: Sequence[tuple[tuple[int, int], Alignment]], device: torch.device
    ) -> "CrossMaps":
        """Those of (source, target) rows and the alignments of their prompts."""
        return cls(
            rows=tuple(rows for rows, _ in edits),
            matrix=torch.stack([alignment.matrix for _, alignment in edits]).to(device),
            taken=torch.stack([alignment.taken for _, alignment in edits]).to(device),
        )


def edited_maps(edits: CrossMaps, maps: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """The targets' maps, (E, H, positions, L), from those of given rows (see `CrossMaps`)."""
    sources, targets = zip(*edits.rows, strict=True)
    own = maps(targets)
    moved = maps(sources) @ edits.matrix[:, None].to(own)
    edited = torch.where(edits.taken[:, None, None].to(own.device), moved, own)
    if edits.scale is not None:
        edited = edited * edits.scale[:, None, None].to(own)
    if edits.gate is not None:
        edited = torch.lerp(own, edited, edits.gate[:, None, None].to(own).expand_as(own))
    return edited
