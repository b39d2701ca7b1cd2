"""The caption stage: captions of source images, drawn from the shapes world or read from a file."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_gen.files import read_lines
from data_gen.records import Caption, caption_from_json, caption_to_json, content_id
from inference.files import write_lines
from inference.shapes.captions import caption, describe
from inference.shapes.scene import random_scene
from inference.shapes.vocabulary import TRAIN_COLOURS, TRAIN_PATTERNS, TRAIN_SHAPES

_TRIES_PER_CAPTION = 100


@dataclass(frozen=True, kw_only=True)
class SceneKnobs:
    """Which scenes of the shapes world are described.

    Attributes:
        figures: 1 or 2; null mixes both.
        shapes: What figures may be.
        colours: What colours figures and backgrounds may have.
        patterns: What figures may be filled with.
        detail: Probability that a size, or a place, is named.
    """

    figures: int | None = None
    shapes: tuple[str, ...] = TRAIN_SHAPES
    colours: tuple[str, ...] = TRAIN_COLOURS
    patterns: tuple[str, ...] = TRAIN_PATTERNS
    detail: float = 0.5


@dataclass(frozen=True, kw_only=True)
class CaptionKnobs:
    """Where captions come from.

    Attributes:
        file: A text file with one caption a line; null draws them from the shapes world.
        count: How many different captions, at most.
        seed: Chooses the captions drawn; a larger count with one seed only adds captions.
        scenes: Which scenes are described where no file is given.
    """

    file: Path | None = None
    count: int = 1000
    seed: int = 0
    scenes: SceneKnobs = field(default_factory=SceneKnobs)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"captions.count must be at least 1, got {self.count}")


def write_captions(knobs: CaptionKnobs, path: Path) -> list[Caption]:
    """Collect distinct captions and write them, one JSON object a line.

    Raises:
        FileNotFoundError: The captions file is not there.
        ValueError: There is no caption in it, or it is no UTF-8 text.
    """
    texts = _drawn(knobs) if knobs.file is None else _lines(knobs.file)
    found: dict[str, Caption] = {}
    for text in texts:
        item = Caption.of(text)
        found.setdefault(item.id, item)
        if len(found) == knobs.count:
            break
    if not found:
        raise ValueError(f"no captions in {knobs.file}: expected one a line")
    captions = list(found.values())
    write_lines(path, map(caption_to_json, captions))
    print(f"captions: {len(captions)} of {knobs.count} wanted")
    return captions


def read_captions(path: Path) -> list[Caption]:
    """Read what `write_captions` wrote.

    Raises:
        FileNotFoundError: The stage has not run yet.
        ValueError: The file is empty, or a line is no caption.
    """
    return read_lines(path, caption_from_json, stage="captions")


def _drawn(knobs: CaptionKnobs) -> Iterator[str]:
    """Describe random scenes, the i-th a function of seed and i alone."""
    scenes = knobs.scenes
    for number in range(knobs.count * _TRIES_PER_CAPTION):
        rng = random.Random(content_id("caption", str(knobs.seed), str(number)))
        scene = random_scene(
            rng,
            figures=scenes.figures,
            shapes=scenes.shapes,
            colours=scenes.colours,
            patterns=scenes.patterns,
        )
        yield caption(describe(scene, rng, detail=scenes.detail))


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no captions file at {path}")
    try:
        with path.open(encoding="utf-8") as file:
            yield from filter(None, (line.strip() for line in file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: expected one caption a line") from error
