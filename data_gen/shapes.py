"""The shapes world as data generation's measuring ground: perfect triplets, readable pairs.

Nothing here makes a data set; it is for measuring what the renderer does, against triplets that no
language model had a hand in.
"""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_gen.records import EditTriplet, ImagePair
from inference.shapes.captions import caption, describe
from inference.shapes.edits import EditType, edit_description, inverse, propose
from inference.shapes.evaluation import untouched
from inference.shapes.phrasings import instruction
from inference.shapes.reading import read
from inference.shapes.scene import random_scene

SWAPS: tuple[EditType, ...] = ("recolour", "reshape", "background")
"""Edit types whose two captions have equally many words, as Prompt-to-Prompt's swap needs."""


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
    """The pixels of a pair that its edit does not concern, (H, W), read off the source image.

    Returns:
        None where the source cannot be read, or the instruction does not fit what it shows.
    """
    scene = read(pair.source.astype(np.float32) / 255).scene
    if scene is None:
        return None
    try:
        return untouched(scene, pair.triplet.instruction, pair.source.shape[0])
    except ValueError:
        return None
