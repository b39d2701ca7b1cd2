"""Random training pictures of the shapes world, drawn once and kept on disk as uint8.

A set is a function of (seed, count) alone. Training seeds are small whole numbers; whatever
measures a model draws from `TEST_SEED` on. Held-out things never appear: `random_scene` leaves
them out.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.files import written_atomically
from inference.progress import ProgressBar
from inference.shapes.render import render
from inference.shapes.scene import Scene, random_scene

TEST_SEED: Final = 1_000_000
"""Seeds from here on belong to measurements; no model trains on them."""

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SceneSet:
    """Scenes and their pictures: `pictures[i]` is `scenes[i]` drawn, (N, 64, 64, 3) uint8."""

    scenes: tuple[Scene, ...]
    pictures: Pictures

    def batch(self, rows: Tensor) -> Tensor:
        """The pictures of some rows as (B, 3, 64, 64) float32 in [-1, 1]."""
        return to_model(np.asarray(self.pictures[rows.numpy()]))


def rng(*parts: object) -> random.Random:
    """A generator that is a function of what it is for, such as `rng("writer", seed, step)`."""
    return random.Random("/".join(str(part) for part in parts))


def draw_scenes(seed: int, count: int) -> tuple[Scene, ...]:
    """`count` random scenes; scene i is a function of (seed, i)."""
    return tuple(random_scene(rng("scene", seed, index)) for index in range(count))


def scene_set(seed: int, count: int, cache: Path) -> SceneSet:
    """Random scenes and their pictures, drawn on first use and mapped from `cache` afterwards.

    Args:
        seed: Which set; see `TEST_SEED`.
        count: How many scenes.
        cache: Folder for the pictures (12 KiB each).
    """
    scenes = draw_scenes(seed, count)
    path = cache / f"scenes-{seed}-{count}.npy"
    if not path.exists():
        pictures = np.stack(
            [picture(scene) for scene in ProgressBar(scenes, desc="drawing scenes")]
        )
        with written_atomically(path) as temporary, temporary.open("wb") as file:
            np.save(file, pictures)
    return SceneSet(scenes=scenes, pictures=np.load(path, mmap_mode="r"))


def picture(scene: Scene) -> Pictures:
    """A scene drawn at 64×64: (64, 64, 3) uint8."""
    return np.round(render(scene) * 255).astype(np.uint8)


def to_model(pictures: Pictures) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
