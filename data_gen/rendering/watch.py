"""Who looks on while pairs are rendered, and what is shown to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data_gen.records import EditTriplet, ImageArray, ImagePair


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A candidate in the making.

    Attributes:
        triplet: The texts.
        source: The finished source image, (H, W, 3) uint8.
        edited: What the model expects the edited image to become, same shape.
    """

    triplet: EditTriplet
    source: ImageArray
    edited: ImageArray


class Watch(Protocol):
    """Looks on while pairs are made, and says what is not worth going on with.

    Attributes:
        draft_at: Fraction of the steps after which candidates are looked at; None for never.
        p_in_turn: Whether the candidates of a tree are finished one by one, the largest p first,
            until one passes.
    """

    draft_at: float | None
    p_in_turn: bool

    def sources(
        self, triplets: Sequence[EditTriplet], images: Sequence[ImageArray]
    ) -> Sequence[str | None]:
        """Why the tree of each finished source is to be given up, before any of its suffixes."""

    def drafts(self, drafts: Sequence[Draft]) -> Sequence[str | None]:
        """Why each candidate is to be given up."""

    def passes(self, pairs: Sequence[ImagePair]) -> Sequence[bool]:
        """Whether each finished candidate is good enough to finish no other of its tree."""
