"""The domain of a data set: which scenes its captions show, and so what its editor has seen."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from inference.shapes.captions import Description, parse
from inference.shapes.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A part of the shapes world.

    Attributes:
        counts: How many figures a scene has.
        shapes: What figures are.
        colours: Of figures and backgrounds.
        patterns: Of figures.
        styles: Of scenes.
    """

    counts: frozenset[int]
    shapes: frozenset[str]
    colours: frozenset[str]
    patterns: frozenset[str]
    styles: frozenset[str]

    @classmethod
    def of(cls, captions: Iterable[str]) -> Self:
        """The least domain that holds the scenes of captions.

        Raises:
            ValueError: A text is not a caption of this world.
        """
        scenes = [parse(text) for text in captions]
        figures = [figure for scene in scenes for figure in scene.figures]
        return cls(
            counts=frozenset(len(scene.figures) for scene in scenes),
            shapes=frozenset(figure.shape for figure in figures),
            colours=frozenset(
                [figure.colour for figure in figures] + [scene.background for scene in scenes]
            ),
            patterns=frozenset(figure.pattern for figure in figures),
            styles=frozenset(scene.style for scene in scenes),
        )

    def holds(self, scene: Scene | Description) -> bool:
        """Whether all of a scene lies in the domain."""
        return (
            len(scene.figures) in self.counts
            and scene.style in self.styles
            and scene.background in self.colours
            and all(
                figure.shape in self.shapes
                and figure.colour in self.colours
                and figure.pattern in self.patterns
                for figure in scene.figures
            )
        )

    def in_words(self) -> str:
        """Name what it holds, for example `1 figure; circle, star; red, white; solid; flat`."""
        figures = " or ".join(map(str, sorted(self.counts)))
        parts = [f"{figures} figure{'s' if max(self.counts) > 1 else ''}"]
        words = (self.shapes, self.colours, self.patterns, self.styles)
        return "; ".join([*parts, *(", ".join(sorted(each)) for each in words)])
