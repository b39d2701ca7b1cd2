"""Which edit is asked of which caption: quotas that steer towards the mix that is wanted.

Captions are gone through in rounds. A round's questions are a function of the answers to earlier
rounds alone, so a run that was killed asks what an unbroken one would have asked. Everything drawn
is keyed by the caption, so a data set that grows asks most of its questions again under the same
ids, and does not pay for them twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from data_gen.instructions.prompts import edit_types_for
from data_gen.records import Caption
from inference.content_id import content_id

Outcomes = Mapping[str, bool | None]
"""Edit type asked of a caption -> whether the answer was usable; None where there is none yet."""

LEAST: Final = 0.01
"""What a type that is ahead of its share weighs still, so that no caption goes without an edit."""


FITTING_STEPS: Final = 30


def round_of(caption_id: str, rounds: int) -> int:
    """Return the round, from 1, in which a caption is first asked for; a hash of it decides.

    Rounds get smaller like R, R - 1, ..., 1: what the last ones ask for in vain is not made up for.
    """
    whole = rounds * (rounds + 1)
    place = int(content_id("round", caption_id), 16) * whole >> 64
    return next(
        number
        for number in range(1, rounds + 1)
        if place < whole - (rounds - number) * (rounds - number + 1)
    )


def plan_round(
    captions: Sequence[Caption],
    past: Mapping[str, Outcomes],
    mix: Mapping[str, float],
    *,
    edits_per_caption: int,
) -> list[tuple[Caption, str]]:
    """Choose what a round asks.

    Args:
        captions: Those whose round has come, or came earlier.
        past: Caption id -> what earlier rounds asked of it.
        mix: Edit type -> weight, > 0.
        edits_per_caption: How many edits each caption is to get.

    Returns:
        Captions and edit types. Captions not asked for yet get all their edits asked for; of
        captions whose answers were not usable, edits of types not yet asked of them.
    """
    lacking = {}
    for caption in captions:
        asked = past.get(caption.id, {})
        hoped = sum(usable is not False for usable in asked.values())
        count = min(edits_per_caption - hoped, len(mix) - len(asked))
        if count > 0:
            lacking[caption.id] = count
    weights = steered(mix, past, lacking) if past else mix
    return [
        (caption, edit_type)
        for caption in captions
        if caption.id in lacking
        for edit_type in edit_types_for(
            caption.id,
            {name: w for name, w in weights.items() if name not in past.get(caption.id, {})},
            lacking[caption.id],
        )
    ]


def steered(
    mix: Mapping[str, float], past: Mapping[str, Outcomes], lacking: Mapping[str, int]
) -> dict[str, float]:
    """Weigh edit types so that the usable answers, the coming ones included, follow the mix.

    A type is to be asked for as often as it will lack usable answers then, over the rate at which
    its answers have been usable so far.

    Args:
        mix: Edit type -> weight, > 0.
        past: Caption id -> what was asked of it.
        lacking: Caption id -> how many questions are to be asked of it now.

    Returns:
        Edit type -> weight, > 0.
    """
    asked: Counter[str] = Counter()
    usable: Counter[str] = Counter()
    for outcomes in past.values():
        for name, outcome in outcomes.items():
            asked[name] += outcome is not None
            usable[name] += outcome is True
    coming = sum(lacking.values())
    gained = usable.total() + coming * (usable.total() + 1) / (asked.total() + 1)
    wanted = {}
    for name, weight in mix.items():
        share = weight / sum(mix.values())
        rate = (usable[name] + 1) / (asked[name] + 1)
        wanted[name] = max(0.0, share * gained - usable[name]) / rate + LEAST * share * coming
    return _weights(wanted, past, lacking)


def _weights(
    wanted: Mapping[str, float], past: Mapping[str, Outcomes], lacking: Mapping[str, int]
) -> dict[str, float]:
    """Weights whose draws ask for each type in proportion to what is wanted.

    Captions cannot be asked again for what has been asked of them, which takes most from the types
    refused most; iterative proportional fitting (Deming and Stephan, 1940) makes up for it.
    """
    groups: Counter[frozenset[str]] = Counter()
    for caption, count in lacking.items():
        groups[frozenset(past.get(caption, {}))] += count
    total = sum(wanted.values())
    weights = {name: number / total for name, number in wanted.items()} if total else {}
    for _ in range(FITTING_STEPS if weights else 0):
        expected = dict.fromkeys(weights, 0.0)
        for barred, count in groups.items():
            open_ones = weights.keys() - barred
            whole = sum(weights[name] for name in sorted(open_ones))
            for name in open_ones:
                expected[name] += count * weights[name] / whole
        scale = sum(expected.values()) / total
        weights = {
            name: weight * scale * wanted[name] / expected[name] if expected[name] else weight
            for name, weight in weights.items()
        }
    return weights
