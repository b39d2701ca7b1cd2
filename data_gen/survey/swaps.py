"""Find pairs whose two pictures, or captions, changed places: CLIP of each image, both captions.

The change between the pictures then runs against that between the captions. With unit features,
(I1 - I0) . (T1 - T0) < 0 says that each picture suits the other's caption better than its own.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from data_gen.records import ImageArray
from inference.clip import CaptionTooLong, ClipScorer, compare, load_clip
from inference.images import from_numpy
from inference.shapes import MODELS

AT_ONCE: Final = 64
"""Pairs that CLIP looks at together."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    where: str
    caption: str
    edited_caption: str
    source: ImageArray
    edited: ImageArray


_SHIPPED: Final = ("inference", "shapes", "models", "clip")


def is_shipped(clip: str) -> bool:
    """Whether a name in a data set stands for the CLIP of the shapes world, wherever it lay."""
    return clip == "shapes/clip" or Path(clip).parts[-len(_SHIPPED) :] == _SHIPPED


class SwapSearch:
    """Collects pairs and looks at them together.

    Args:
        clip: The CLIP to look with; None takes the one that comes with this framework, for the
            pairs that it scored. No other that a data set names is loaded.
        on_swap: Called with where a swapped pair stands and what was found.
    """

    def __init__(self, clip: str | None, on_swap: Callable[[str, str], None]) -> None:
        self._clip, self._on_swap = clip, on_swap
        self._scorer: ClipScorer | None = None
        self._named = ""
        self._waiting: list[_Pair] = []
        self._unseen: dict[str, int] = defaultdict(int)

    def add(
        self, where: str, description: Mapping[str, Any], images: tuple[ImageArray, ImageArray]
    ) -> None:
        """Take a pair in, and look once there are enough.

        Args:
            where: Its shard and key.
            description: Its JSON.
            images: Source and edited image.
        """
        caption, edited_caption = description["caption"], description["edited_caption"]
        if not (isinstance(caption, str) and isinstance(edited_caption, str)):
            self._unseen["they lack a caption"] += 1
        elif scorer := self._load(description):
            source, edited = images
            pair = _Pair(
                where=where,
                caption=caption,
                edited_caption=edited_caption,
                source=source,
                edited=edited,
            )
            self._waiting.append(pair)
            if len(self._waiting) == AT_ONCE:
                self._look(scorer)

    def finish(self) -> list[str]:
        """Look at the pairs left over, and say how many could not be looked at, by reason."""
        if self._scorer is not None:
            self._look(self._scorer)
        return [
            f"{count} pairs were not looked at for a swap: {reason}"
            for reason, count in self._unseen.items()
        ]

    def _load(self, description: Mapping[str, Any]) -> ClipScorer | None:
        if self._clip is None and (reason := self._not_asked_for(description)):
            self._unseen[reason] += 1
            return None
        if self._scorer is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._scorer = load_clip(self._clip or MODELS / "clip", device=device)
        return self._scorer

    def _not_asked_for(self, description: Mapping[str, Any]) -> str | None:
        """Why a pair's CLIP is not loaded; None where it is the framework's own."""
        provenance = description.get("provenance")
        named = provenance.get("clip") if isinstance(provenance, dict) else None
        if not isinstance(named, str):
            return "they name no CLIP; give one with --clip"
        if is_shipped(named):
            return None
        self._named = self._named or named
        return (
            f"they name another CLIP, such as {self._named!r:.200}, and what a data set names is "
            "not loaded unasked; to look with it, or with another, give it with --clip"
        )

    def _look(self, scorer: ClipScorer) -> None:
        if not self._waiting:
            return
        readable = self._waiting if _fit(scorer, self._waiting) else self._readable(scorer)
        self._waiting = []
        if not readable:
            return
        texts = scorer.text(_captions(readable))
        found = compare(
            _features(scorer, [pair.source for pair in readable]),
            _features(scorer, [pair.edited for pair in readable]),
            texts[: len(readable)],
            texts[len(readable) :],
        )["directional"]
        for pair, value in zip(readable, found.tolist(), strict=True):
            if value < 0:
                self._on_swap(
                    pair.where,
                    "each image suits the other's caption better than its own: the directional "
                    f"similarity is {value:.3f}, expected at least 0",
                )

    def _readable(self, scorer: ClipScorer) -> list[_Pair]:
        """The waiting pairs whose captions CLIP reads whole; the others are counted."""
        fitting = [pair for pair in self._waiting if _fit(scorer, [pair])]
        reason = f"a caption exceeds CLIP's {scorer.context_length} tokens"
        self._unseen[reason] += len(self._waiting) - len(fitting)
        return fitting


def _captions(pairs: Sequence[_Pair]) -> list[str]:
    return [pair.caption for pair in pairs] + [pair.edited_caption for pair in pairs]


def _fit(scorer: ClipScorer, pairs: Sequence[_Pair]) -> bool:
    try:
        scorer.text(_captions(pairs))
    except CaptionTooLong:
        return False
    return True


def _features(scorer: ClipScorer, images: list[ImageArray]) -> Tensor:
    """Unit features, (B, D), of images of any sizes; those of one size are encoded together."""
    of_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        of_size[image.shape].append(row)
    features: dict[int, Tensor] = {}
    for rows in of_size.values():
        some = scorer.image(torch.stack([from_numpy(images[row]) for row in rows]))
        features |= dict(zip(rows, some, strict=True))
    return torch.stack([features[row] for row in range(len(images))])
