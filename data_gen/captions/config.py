"""Which captions are collected, and from where: the options of the caption stage."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from inference.number_types import (
    Fraction,
    Limits,
    PositiveCount,
    PositiveFraction,
    Seed,
    checks_numbers,
)
from inference.shapes.vocabulary import TRAIN_COLOURS, TRAIN_PATTERNS, TRAIN_SHAPES


@dataclass(frozen=True, kw_only=True)
class DatasetKnobs:
    """A Hugging Face data set.

    Attributes:
        name: Its name on the Hub, such as ``google-research-datasets/conceptual_captions``, or a
            local folder: of data files, or what ``save_to_disk`` wrote. Null for none.
        config: Its configuration, where it has several.
        split: Which split.
        revision: Branch, tag or commit of a data set of the Hub; only a commit gives the same
            captions for ever.
        streaming: Read over the network and keep nothing; false downloads it into the cache first,
            which pays when it is read again.
    """

    name: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = True


DuplicateSimilarity = Annotated[float, BeforeValidator(Limits(float, 0.8, 1).read)]
"""A Jaccard similarity; below these the index misses too many."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class CaptionFilterKnobs:
    """Which captions are kept. Captions of the web need 3 to 50 words, their language and 0.8.

    Always turned down: what is not text, is empty or without a letter, and what holds markup, links
    or control characters, see `hostile_part`. White space at the ends is cut and line breaks become
    spaces.

    Attributes:
        min_words: Fewest words.
        max_words: Most words; null for any number. The tokenizer's limit is checked by the pairs.
        min_characters: Fewest characters.
        max_characters: Most characters; the instruction stage writes no edited caption over 400.
        languages: Codes such as ``[en]`` or ``[en, de]`` of the languages to keep; none keeps all.
            Needs the extra ``captions``.
        language_confidence: Least probability that one of them must have, in (0, 1]. Names and
            short captions look like many languages: of 50 English ones 0.2 keeps 49, 0.5 keeps 41.
        near_duplicates: Jaccard similarity, in [0.8, 1], of the 4-character pieces of two captions
            from which the second is turned down. At 0.9 they differ by a full stop or a letter, at
            0.8 by a short word. Null keeps all. Needs the extra ``captions``.
    """

    min_words: PositiveCount = 1
    max_words: PositiveCount | None = None
    min_characters: PositiveCount = 1
    max_characters: PositiveCount = 400
    languages: tuple[str, ...] = ()
    language_confidence: PositiveFraction = 0.2
    near_duplicates: DuplicateSimilarity | None = None

    def __post_init__(self) -> None:
        most_words = float("inf") if self.max_words is None else self.max_words
        ranges = {
            "words": (self.min_words, most_words),
            "characters": (self.min_characters, self.max_characters),
        }
        for name, (least, most) in ranges.items():
            if least > most:
                raise ValueError(
                    f"captions.filter must have min_{name} <= max_{name}, got {least}, {most}"
                )


FigureCount = Annotated[int, BeforeValidator(Limits(int, 1, 2).read)]


@checks_numbers
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

    figures: FigureCount | None = None
    shapes: tuple[str, ...] = TRAIN_SHAPES
    colours: tuple[str, ...] = TRAIN_COLOURS
    patterns: tuple[str, ...] = TRAIN_PATTERNS
    detail: Fraction = 0.5


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class CaptionKnobs:
    """Where captions come from: a file, a Hugging Face data set, or else the shapes world.

    Attributes:
        file: One caption a line (.txt), or rows with a column of captions (.jsonl, .ndjson,
            .json, .csv, .tsv, .parquet); all but parquet may be compressed (.gz). A pattern such as
            ``captions/*.parquet`` takes every file that matches.
        dataset: A Hugging Face data set.
        column: The column of the captions; ``sentences.raw`` is a field of the objects in one. Of a
            list of captions each counts. Null takes the one called caption, captions, text or
            prompt.
        count: How many different captions, at most; null takes all.
        seed: Chooses the captions, whatever order or file they come in; a larger count with one
            seed only adds captions.
        filter: Which captions are turned down.
        scenes: Which scenes are described where neither file nor data set is given.
    """

    file: Path | None = None
    dataset: DatasetKnobs = field(default_factory=DatasetKnobs)
    column: str | None = None
    count: PositiveCount | None = 1000
    seed: Seed = 0
    filter: CaptionFilterKnobs = field(default_factory=CaptionFilterKnobs)
    scenes: SceneKnobs = field(default_factory=SceneKnobs)

    def __post_init__(self) -> None:
        if self.file is not None and self.dataset.name is not None:
            raise ValueError("captions.file and captions.dataset.name are both given: choose one")
        if self.dataset.name is None and self.dataset != DatasetKnobs():
            raise ValueError("captions.dataset.name must say which data set; it is null")
        if self.of_shapes and self.column is not None:
            raise ValueError("captions.column is for a file or a data set; neither is given")
        if self.of_shapes and self.count is None:
            raise ValueError(
                "captions.count is null, and the shapes world has no end: say how many"
            )

    @property
    def of_shapes(self) -> bool:
        """Whether captions are drawn from the shapes world."""
        return self.file is None and self.dataset.name is None
