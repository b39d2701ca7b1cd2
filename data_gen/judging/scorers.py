"""What all scorers have in common: pairs in, one number a pair out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from data_gen.records import ImageArray, ImagePair

T = TypeVar("T")


class Scorer(Protocol):
    """Gives pairs one score.

    Attributes:
        name: The field of `Scores` that it fills.
        dear: Whether it costs so much that only pairs are shown to it that are about to be kept.
    """

    @property
    def name(self) -> str:
        """Of the score."""

    @property
    def dear(self) -> bool:
        """Whether it costs much."""

    def __call__(self, pairs: Sequence[ImagePair]) -> Sequence[float]:
        """Return the score of each pair; not a number where there is none to be had."""


def add_score(pairs: Sequence[ImagePair], scorer: Scorer) -> list[ImagePair]:
    """Return pairs, which CLIP has scored, with one more score."""
    values = scorer(pairs) if pairs else []
    found = []
    for pair, value in zip(pairs, values, strict=True):
        if pair.scores is None:
            raise ValueError(f"the candidate {pair.key} has not been scored by CLIP")
        found.append(replace(pair, scores=replace(pair.scores, **{scorer.name: float(value)})))
    return found


def of_each_image(
    pairs: Sequence[ImagePair], look: Callable[[Sequence[ImageArray]], Iterable[T]]
) -> list[tuple[T, T]]:
    """Look at each distinct image of some pairs once.

    Candidates of one seed share their source's array.

    Args:
        pairs: Any.
        look: Returns one value an image.

    Returns:
        What was seen of source and edited image, a pair each.
    """
    images = {id(image): image for pair in pairs for image in (pair.source, pair.edited)}
    seen = dict(zip(images, look(list(images.values())), strict=True))
    return [(seen[id(pair.source)], seen[id(pair.edited)]) for pair in pairs]
