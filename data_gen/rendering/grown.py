"""What becomes of a tree: its finished candidates, and those that were given up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from data_gen.records import GivenUp, ImageArray, ImagePair
from data_gen.rendering.trees import Tree

NOT_FINITE: Final = "pixels that are not finite"
"""Why a candidate is given up whose pictures a narrow precision overflowed."""
ENOUGH: Final = "enough: a larger p of its seed passes"
"""Why a candidate is given up that comes after one that passes."""


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What became of a tree.

    Attributes:
        pairs: Its finished candidates, in the order of their p.
        given_up: Those that a `Watch` gave up, and those without finite pictures.
    """

    pairs: tuple[ImagePair, ...]
    given_up: tuple[GivenUp, ...]


def grown(
    tree: Tree,
    source: ImageArray | None,
    edited: Sequence[ImageArray | None],
    reasons: Sequence[str | None],
) -> Grown:
    """Sort the candidates of a tree.

    Args:
        tree: The tree.
        source: Its source image, (H, W, 3) uint8; None where it is not finite.
        edited: The edited image of each branch; None where it was not finished.
        reasons: Why each branch was not.
    """
    pairs, given_up = [], []
    for branch, (image, reason) in enumerate(zip(edited, reasons, strict=True)):
        if source is not None and image is not None:
            pairs.append(pair_of(tree, branch, source, image))
        else:
            assert reason is not None  # whoever gives a candidate up says why
            given_up.append(
                GivenUp(
                    triplet=tree.triplet,
                    key=ImagePair.key_of(tree.triplet.id, tree.seed_index, branch),
                    seed_index=tree.seed_index,
                    branch=branch,
                    p=tree.ps[branch],
                    guidance=tree.guidance,
                    reason=reason,
                )
            )
    return Grown(pairs=tuple(pairs), given_up=tuple(given_up))


def pair_of(tree: Tree, branch: int, source: ImageArray, edited: ImageArray) -> ImagePair:
    """A finished candidate."""
    return ImagePair(
        triplet=tree.triplet,
        key=ImagePair.key_of(tree.triplet.id, tree.seed_index, branch),
        source=source,
        edited=edited,
        seed_index=tree.seed_index,
        branch=branch,
        p=tree.ps[branch],
        guidance=tree.guidance,
    )
