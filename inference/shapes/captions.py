"""Captions: what is said of a scene, and reading it back.

A caption is a partial description. Shape, colour and background are always named; a figure
without a pattern word is solid and a caption without a style word is flat; size and place may be
left out, and then say nothing. Word order is fixed, so a caption and its edit differ only in the
words that the edit concerns:

    a small striped red heart on the left and a white star on a blue background, outlined
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from inference.shapes.scene import Figure, Scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, PLACES, SHAPES, SIZES

STYLE_SUFFIXES: Final = {"flat": "", "outlined": ", outlined", "shadowed": ", with shadows"}


@dataclass(frozen=True, kw_only=True)
class FigureDescription:
    """What a caption says of one figure; None where it says nothing."""

    shape: str
    colour: str
    pattern: str = "solid"
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a caption says of a scene."""

    figures: tuple[FigureDescription, ...]
    background: str
    style: str = "flat"


def describe(scene: Scene, rng: random.Random, *, detail: float = 0.5) -> Description:
    """Describe a scene, naming each size and each place with probability `detail`."""
    return Description(
        figures=tuple(
            FigureDescription(
                shape=figure.shape,
                colour=figure.colour,
                pattern=figure.pattern,
                size=figure.size if rng.random() < detail else None,
                place=figure.place if rng.random() < detail else None,
            )
            for figure in scene.figures
        ),
        background=scene.background,
        style=scene.style,
    )


def caption(description: Description) -> str:
    """Put a description into words."""
    figures = " and ".join(noun_phrase(figure) for figure in description.figures)
    suffix = STYLE_SUFFIXES[description.style]
    return f"{figures} on {with_article(description.background)} background{suffix}"


def noun_phrase(figure: FigureDescription) -> str:
    """Name one figure, for example `a small striped red heart on the left`."""
    pattern = None if figure.pattern == "solid" else figure.pattern
    words = [figure.size, pattern, figure.colour, figure.shape]
    phrase = with_article(" ".join(word for word in words if word))
    return f"{phrase} {figure.place}" if figure.place else phrase


def parse(text: str) -> Description:
    """Read a caption back.

    Raises:
        ValueError: The text is not a caption of this world; the message quotes it.
    """
    match = _CAPTION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a caption of the shapes world: {text!r}")
    style = next(
        name for name, suffix in STYLE_SUFFIXES.items() if suffix == (match["style"] or "")
    )
    figures = tuple(parse_figure(part) for part in re.split(r" and (?=an? )", match["figures"]))
    return Description(figures=figures, background=match["background"], style=style)


def parse_figure(phrase: str) -> FigureDescription:
    """Read back what `noun_phrase` says.

    Raises:
        ValueError: The phrase does not name a figure of this world.
    """
    match = _FIGURE.fullmatch(phrase.strip())
    if match is None:
        raise ValueError(f"not a figure of the shapes world: {phrase!r}")
    return FigureDescription(
        shape=match["shape"],
        colour=match["colour"],
        pattern=match["pattern"] or "solid",
        size=match["size"],
        place=match["place"],
    )


def describes(description: Description, scene: Scene) -> bool:
    """Whether everything the description says is true of the scene, and no figure is left over."""
    if (description.background, description.style) != (scene.background, scene.style):
        return False
    if len(description.figures) != len(scene.figures):
        return False
    by_shape = {figure.shape: figure for figure in scene.figures}
    return all(
        said.shape in by_shape and _fits(said, by_shape[said.shape]) for said in description.figures
    )


def with_article(words: str) -> str:
    """Put `a` or `an` before a phrase."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def alternatives(words: Iterable[str]) -> str:
    """A regular expression that matches any of the words, longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _fits(said: FigureDescription, figure: Figure) -> bool:
    return (
        (said.shape, said.colour, said.pattern) == (figure.shape, figure.colour, figure.pattern)
        and said.size in (None, figure.size)
        and said.place in (None, figure.place)
    )


FIGURE_PATTERN: Final = (
    rf"an? (?:(?:{alternatives(SIZES)}) )?(?:(?:{alternatives(PATTERNS)}) )?"
    rf"(?:{alternatives(COLOURS)}) (?:{alternatives(SHAPES)})(?: (?:{alternatives(PLACES)}))?"
)
"""A regular expression for a noun phrase, without groups."""

_FIGURE: Final = re.compile(
    rf"an? (?:(?P<size>{alternatives(SIZES)}) )?(?:(?P<pattern>{alternatives(PATTERNS)}) )?"
    rf"(?P<colour>{alternatives(COLOURS)}) (?P<shape>{alternatives(SHAPES)})"
    rf"(?: (?P<place>{alternatives(PLACES)}))?"
)
_CAPTION: Final = re.compile(
    rf"(?P<figures>{FIGURE_PATTERN}(?: and {FIGURE_PATTERN})?)"
    rf" on an? (?P<background>{alternatives(COLOURS)}) background"
    rf"(?P<style>{alternatives(suffix for suffix in STYLE_SUFFIXES.values() if suffix)})?"
)
