"""Score rendered candidates with CLIP and decide which of them become training pairs.

InstructPix2Pix's rule (``generate_img_dataset.py``): all four similarities must reach their
threshold; of what passes, the candidates with the highest directional similarity are kept, or, as
one may choose, those that change least: what changes beside the edit changes more.
Candidates of one prefix tree share their source image, so only the best p of a seed competes.
Every candidate leaves with a verdict: a rejected one carries its reason.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from data_gen.judging.config import SCORES, FilterKnobs, Thresholds
from data_gen.judging.scorers import add_score, of_each_image
from data_gen.judging.surprise import Surprise
from data_gen.records import ImageArray, ImagePair, Scores, Verdict
from inference.backbone import Backbone
from inference.clip import ClipScorer, compare
from inference.images import from_numpy

UNSAFE: Final = "unsafe"
NO_JUDGEMENT: Final = "the judge gave no usable answer"


# Images that CLIP sees at once; its results move by rounding with it, so it is not a knob.
IMAGES_AT_ONCE = 64


def judge(scores: Scores, thresholds: Thresholds) -> str | None:
    """Return None where all similarities reach their thresholds, otherwise the first that fails.

    A similarity that is not a number fails. The reason names the threshold rather than the value,
    so that reasons can be counted.
    """
    for similarity in fields(thresholds):
        least = getattr(thresholds, similarity.name)
        if not getattr(scores, similarity.name) >= least:
            return f"{similarity.name} < {least:g}"
    return None


def select(
    pairs: Sequence[ImagePair],
    thresholds: Thresholds,
    knobs: FilterKnobs,
    *,
    hopeful: bool = False,
) -> list[Verdict]:
    """Decide over the scored candidates of one triplet.

    Args:
        pairs: Candidates of one triplet, each with scores.
        thresholds: What the similarities must reach.
        knobs: How many to keep.
        hopeful: As for `failing`; it tells which candidates are worth asking more about.

    Returns:
        One verdict a candidate, in the order given. Equal candidates rank by key.

    Raises:
        ValueError: A candidate lacks a score.
    """
    reasons = {
        pair.key: failing(_scores(pair), thresholds, knobs, hopeful=hopeful) for pair in pairs
    }
    passed = [pair for pair in pairs if reasons[pair.key] is None]
    rank = _distance if knobs.prefer == "closeness" else lambda pair: -_scores(pair).directional
    ranked = sorted(passed, key=lambda pair: (rank(pair), pair.key))
    seeds: set[int] = set()
    outranked: dict[str, str] = {}
    kept = 0
    for pair in ranked:
        if knobs.best_p_per_seed and pair.seed_index in seeds:
            outranked[pair.key] = "not the best p of its seed"
        elif kept == knobs.keep:
            outranked[pair.key] = f"not among the best {knobs.keep}"
        else:
            kept += 1
        seeds.add(pair.seed_index)
    reasons |= outranked
    return [
        Verdict(pair=pair, reason=reasons[pair.key], outranked=pair.key in outranked)
        for pair in pairs
    ]


def score(pairs: Sequence[ImagePair], scorer: ClipScorer) -> list[ImagePair]:
    """Score candidates; each distinct image and caption is encoded once.

    Args:
        pairs: Any candidates; those of one seed share one source array.
        scorer: The CLIP model.

    Returns:
        The same candidates with scores.

    Raises:
        CaptionTooLong: A caption has more tokens than the scorer reads.
    """
    captions = [pair.triplet.caption for pair in pairs]
    edited_captions = [pair.triplet.edited_caption for pair in pairs]
    texts = scorer.text([*captions, *edited_captions])
    looked_at = of_each_image(pairs, lambda images: image_features(images, scorer).unbind())
    source, edited = map(torch.stack, zip(*looked_at, strict=True))
    values = compare(
        source,
        edited,
        texts[: len(pairs)],
        texts[len(pairs) :],
    )
    return [
        replace(pair, scores=Scores(**{name: float(value[row]) for name, value in values.items()}))
        for row, pair in enumerate(pairs)
    ]


def scored(
    pairs: Sequence[ImagePair], scorer: ClipScorer, knobs: FilterKnobs, backbone: Backbone | None
) -> list[ImagePair]:
    """Score candidates by all that the knobs ask for.

    Args:
        pairs: Any candidates; those of one seed share one source array.
        scorer: The CLIP model.
        knobs: How candidates are chosen.
        backbone: What drew them; it is asked where ``surprise`` has a bound.

    Raises:
        CaptionTooLong: A caption has more tokens than the scorer reads.
        ValueError: The backbone is to be asked and missing.
    """
    if not pairs:
        return []
    found = score(pairs, scorer)
    if "surprise" not in knobs.bounded:
        return found
    if backbone is None:
        raise ValueError("a bound on surprise asks the generator, which was not given")
    return add_score(found, Surprise(backbone=backbone))


def thresholds_of(knobs: FilterKnobs, scorer: ClipScorer) -> Thresholds:
    """The recipe's thresholds, or those in the CLIP folder.

    Raises:
        ValueError: Neither gives all.
    """
    return knobs.thresholds or Thresholds.of_checkpoint(scorer.thresholds)


def failing(
    scores: Scores, thresholds: Thresholds, knobs: FilterKnobs, *, hopeful: bool = False
) -> str | None:
    """Why a candidate is not to be kept, however few others there are; None where it may be.

    Args:
        scores: What it scored.
        thresholds: What the similarities must reach.
        knobs: What the other scores must.
        hopeful: Whether a score that nobody has asked for yet is taken to suffice.
    """
    return next(_faults(scores, thresholds, knobs, hopeful=hopeful), None)


def _faults(
    scores: Scores, thresholds: Thresholds, knobs: FilterKnobs, *, hopeful: bool
) -> Iterator[str]:
    """All that is wrong, the gravest first; a score that is not a number is wrong."""
    if scores.unsafe:
        yield UNSAFE
    if (reason := judge(scores, thresholds)) is not None:
        yield reason
    for name in SCORES:
        found = getattr(scores, name)
        if name == "judge" and found is not None and math.isnan(found):
            yield NO_JUDGEMENT
        elif found is not None or not hopeful:
            value = math.nan if found is None else found
            least, most = knobs.at_least.get(name), knobs.at_most.get(name)
            if least is not None and not value >= least:
                yield f"{name} < {least:g}"
            if most is not None and not value <= most:
                yield f"{name} > {most:g}"


def image_features(
    images: Sequence[ImageArray], scorer: ClipScorer, *, as_trained: bool = False
) -> Tensor:
    """Encode images of one size each, (H, W, 3) uint8, as unit features (N, D).

    Args:
        images: N of them.
        scorer: The CLIP.
        as_trained: Resized as CLIP's own preprocessing does, instead of as InstructPix2Pix did.
    """
    encode = scorer.image_as_trained if as_trained else scorer.image
    chunks = []
    for first in range(0, len(images), IMAGES_AT_ONCE):
        some = [from_numpy(image) for image in images[first : first + IMAGES_AT_ONCE]]
        chunks.append(encode(torch.stack(some)))
    return torch.cat(chunks)


def _distance(pair: ImagePair) -> float:
    """Mean absolute change of the pixels, in 8-bit steps."""
    return float(np.abs(pair.source.astype(np.int16) - pair.edited).mean())


def _scores(pair: ImagePair) -> Scores:
    if pair.scores is None:
        raise ValueError(f"the candidate {pair.key} has not been scored")
    return pair.scores
