"""Random true edits: two scenes, what is said of them, and the pictures where they are wanted.

A pair is a function of (seed, index). Both scenes are free of held-out things.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.files import written_atomically
from inference.progress import ProgressBar
from inference.shapes.captions import Description, describe
from inference.shapes.edits import (
    EDIT_TYPES,
    Edit,
    Inapplicable,
    edit_description,
    edit_scene,
    propose,
)
from inference.shapes.scene import Scene, is_held_out, random_scene
from training.shapes.scenes import Pictures, picture, rng


@dataclass(frozen=True, kw_only=True)
class EditPair:
    """A scene, an edit of it, and the scene that results; the descriptions say the same."""

    source: Scene
    edited: Scene
    description: Description
    edited_description: Description
    edit: Edit


def draw_pair(seed: int, index: int) -> EditPair:
    """Pair `index` of a set, a function of (seed, index)."""
    draw = rng("pair", seed, index)
    while True:
        scene = random_scene(draw)
        description = describe(scene, draw, detail=draw.choice((0.3, 0.6, 1.0)))
        edit = propose(description, draw.choice(EDIT_TYPES), draw)
        if edit is None:
            continue
        try:
            edited = edit_scene(edit, scene)
        except Inapplicable:
            continue
        if edited != scene and not is_held_out(edited):
            return EditPair(
                source=scene,
                edited=edited,
                description=description,
                edited_description=edit_description(edit, description),
                edit=edit,
            )


def pair_pictures(pairs: list[EditPair], path: Path) -> Pictures:
    """The pictures of all pairs, (N, 2, 64, 64, 3) uint8, drawn on first use and then mapped."""
    if not path.exists():
        rows = [
            np.stack([picture(pair.source), picture(pair.edited)])
            for pair in ProgressBar(pairs, desc="drawing pairs", mininterval=5)
        ]
        with written_atomically(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.stack(rows))
    pictures: Pictures = np.load(path, mmap_mode="r")
    return pictures
