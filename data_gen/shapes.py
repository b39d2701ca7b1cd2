"""The shapes world as data generation's measuring ground: perfect triplets, readable pairs.

Nothing here makes a data set; it is for measuring what the renderer does, against triplets that no
language model had a hand in.
"""

import random
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_gen.records import EditTriplet, ImagePair
from inference.shapes.captions import caption, describe, parse
from inference.shapes.edits import EditType, edit_description, inverse, propose
from inference.shapes.phrasings import instruction
from inference.shapes.render import colour
from inference.shapes.scene import random_scene

SWAPS: Final[tuple[EditType, ...]] = ("recolour", "reshape", "background")
"""Edit types whose two captions have equally many words, as Prompt-to-Prompt's swap needs."""


NEAR: Final = 0.15
"""Distance on [0, 1] up to which a pixel counts as being of a colour."""
MARGIN: Final = 4
"""Pixels around a figure that its edit may concern."""


def draw_triplets(
    count: int, *, seed: int, kinds: Sequence[EditType] = SWAPS
) -> tuple[EditTriplet, ...]:
    """Draw triplets of the world; triplet i is a function of (seed, i), its kind goes round."""
    return tuple(
        _draw_triplet(kinds[index % len(kinds)], random.Random(f"triplet/{seed}/{index}"))
        for index in range(count)
    )


def _draw_triplet(kind: EditType, rng: random.Random) -> EditTriplet:
    while True:
        before = describe(random_scene(rng), rng)
        edit = propose(before, kind, rng)
        if edit is not None:
            break
    after = edit_description(edit, before)
    return EditTriplet.of(
        caption=caption(before),
        instruction=instruction(edit, before, rng),
        edited_caption=caption(after),
        edit_type=kind,
        inverse_instruction=instruction(inverse(edit, before), after, rng),
    )


def unconcerned_region(pair: ImagePair) -> NDArray[np.bool_] | None:
    """The pixels of a pair that its edit does not concern, (H, W).

    An edit of the background leaves the figures alone; any other edit leaves alone the background,
    but for a margin around the figures.

    Returns:
        None where nothing of the kind is to be seen.
    """
    wanted = colour(parse(pair.triplet.caption).background)
    distance = np.abs(pair.source.astype(np.float32) / 255 - wanted).max(axis=-1)
    if pair.triplet.edit_type == "background":
        region = _eroded(distance > NEAR, 1)
    else:
        region = _eroded(distance <= NEAR, MARGIN)
    return region if region.any() else None


def _eroded(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Where the mask holds for all pixels within `margin`."""
    padded = np.pad(mask, margin, constant_values=True)
    side = 2 * margin + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return np.asarray(windows.all(axis=(-1, -2)))
