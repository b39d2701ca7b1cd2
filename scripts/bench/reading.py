"""How well pictures of the shapes world are read back, as a table.

    python scripts/bench/reading.py

Every row counts pictures by what they are read as: the scene they were made from, another one, or
none (unsure). Of near-misses and of pictures that show no scene, none should be read as the former.
About 10 minutes on one core.
"""

import io
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from PIL import Image

from inference.backbone import Backbone, load_backbone
from inference.progress import ProgressBar
from inference.shapes import MODELS
from inference.shapes.near_misses import NEAR_MISSES, NearMiss, any_scene
from inference.shapes.reading import read
from inference.shapes.render import Field, colour, render
from inference.shapes.scene import Scene, is_held_out, random_scene
from inference.shapes.vocabulary import COLOURS

SEED = 4_000_000
NOTHING: Scene | None = None
"""The scene of a picture that shows none."""

Sample = tuple[Scene | None, Field]


def main(
    scenes: int = 5000,
    near_misses: int = 2000,
    nothings: int = 300,
    model: Path = MODELS / "stable-diffusion",
) -> None:
    """Print the table.

    Args:
        scenes: Pictures in each row of scenes.
        near_misses: Near-misses altogether.
        nothings: Pictures in each row of noise, flat colours and gradients.
        model: Diffusers folder whose autoencoder the pictures go through.
    """
    backbone = load_backbone(model)
    print(f"{'':34} count   as made   another    unsure   ms each")
    report("drawn", scenes, of_scenes(any_scene))
    report("JPEG", scenes, changed(of_scenes(any_scene), jpeg))
    report("JPEG 4:2:0", scenes, changed(of_scenes(any_scene), subsampled_jpeg))
    report("a pixel off", scenes, changed(of_scenes(any_scene), a_pixel_off))
    known = of_scenes(random_scene)
    unknown = (sample for sample in of_scenes(any_scene) if is_held_out(sample[0]))
    report("autoencoder, JPEG", scenes, through(backbone, known))
    report("autoencoder, JPEG: held-out words", min(scenes, 500), through(backbone, unknown))
    for name, draw in NEAR_MISSES.items():
        report(name, near_misses // len(NEAR_MISSES), of_near_misses(draw))
    for name, picture in (("noise", noise), ("flat colour", flat), ("gradient", gradient)):
        report(name, nothings, of_nothing(picture))


def report(name: str, count: int, samples: Iterator[Sample]) -> None:
    """Read `count` pictures and print a row."""
    outcomes: Counter[str] = Counter()
    seconds = 0.0
    for scene, picture in ProgressBar(islice(samples, count), desc=name, total=count, leave=False):
        begin = time.process_time()
        found = read(picture).scene
        seconds += time.process_time() - begin
        as_made = found is not None and scene is not None and found.canonical() == scene.canonical()
        outcomes["as made" if as_made else "another" if found else "unsure"] += 1
    shares = "".join(f"{outcomes[key] / count:10.2%}" for key in ("as made", "another", "unsure"))
    print(f"{name:34}{count:6}{shares}{1000 * seconds / count:10.1f}", flush=True)


def of_scenes(draw: Callable[[random.Random], Scene]) -> Iterator[tuple[Scene, Field]]:
    """Scenes and their pictures."""
    rng = random.Random(SEED)
    while True:
        scene = draw(rng)
        yield scene, render(scene)


def of_near_misses(draw: Callable[[random.Random], NearMiss]) -> Iterator[Sample]:
    """Scenes, each with a picture that is almost one of it."""
    rng = random.Random(SEED)
    while True:
        yield draw(rng)


def of_nothing(picture: Callable[[np.random.Generator], Field]) -> Iterator[Sample]:
    """Pictures that show no scene."""
    rng = np.random.default_rng(SEED)
    while True:
        yield NOTHING, picture(rng)


def changed(samples: Iterable[Sample], change: Callable[[Field], Field]) -> Iterator[Sample]:
    """The same scenes, their pictures changed."""
    for scene, picture in samples:
        yield scene, change(picture)


@torch.no_grad()
def through(backbone: Backbone, samples: Iterator[Sample], batch: int = 32) -> Iterator[Sample]:
    """Encode and decode pictures, and save them as JPEG."""
    while chunk := list(islice(samples, batch)):
        pictures = torch.from_numpy(np.stack([picture for _, picture in chunk]))
        latents = backbone.encode_image(pictures.permute(0, 3, 1, 2) * 2 - 1)
        decoded = (backbone.decode(latents).permute(0, 2, 3, 1) + 1) / 2
        for (scene, _), picture in zip(chunk, decoded.numpy(), strict=True):
            yield scene, jpeg(picture)


def jpeg(picture: Field, subsampling: int = 0) -> Field:
    """Save as JPEG, quality 95, as shards do, and load."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=95, subsampling=subsampling)
    return np.asarray(Image.open(buffer)).astype(np.float32) / 255


def subsampled_jpeg(picture: Field) -> Field:
    """The same with colours at half the resolution, as most programs save JPEG."""
    return jpeg(picture, subsampling=2)


def a_pixel_off(picture: Field) -> Field:
    """Move everything right and down by a pixel."""
    return np.roll(picture, (1, 1), axis=(0, 1))


def noise(rng: np.random.Generator) -> Field:
    """Uniform noise, or normal noise about a colour of the world."""
    if rng.random() < 0.5:
        return rng.random((64, 64, 3), dtype=np.float32)
    spread = rng.uniform(0.02, 0.4)
    return np.clip(rng.normal(_colour(rng), spread, (64, 64, 3)), 0, 1).astype(np.float32)


def flat(rng: np.random.Generator) -> Field:
    """One colour, of the world or not."""
    shade = _colour(rng) if rng.random() < 0.5 else rng.random(3, dtype=np.float32)
    return np.broadcast_to(shade, (64, 64, 3))


def gradient(rng: np.random.Generator) -> Field:
    """From one colour of the world to another, across or down."""
    share = np.linspace(0, 1, 64, dtype=np.float32)[:, None, None]
    across = np.broadcast_to((1 - share) * _colour(rng) + share * _colour(rng), (64, 64, 3))
    return across if rng.random() < 0.5 else across.transpose(1, 0, 2)


def _colour(rng: np.random.Generator) -> Field:
    return colour(str(rng.choice(list(COLOURS))))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
