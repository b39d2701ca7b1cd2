"""The words of the shapes world, and which of them every model is kept from.

This is the one place where hold-outs are listed. A `TRAIN_*` tuple is what the autoencoder, the
CLIP, the writer, the base and the editor may see; the `HELD_OUT_*` rest exists in the renderer and
in the reader alone, so that generalisation and customisation can be measured.
"""

from typing import Final

Rgb = tuple[int, int, int]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (214, 39, 40),
    "orange": (250, 140, 30),
    "yellow": (250, 225, 70),
    "green": (50, 160, 70),
    "blue": (40, 90, 210),
    "purple": (130, 60, 180),
    "pink": (245, 150, 195),
    "white": (250, 250, 250),
    "cyan": (70, 205, 215),
    "brown": (125, 80, 45),
}
SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
PATTERNS: Final = ("solid", "striped", "dotted", "checkered", "zigzag")
SIZES: Final = ("small", "large")
STYLES: Final = ("flat", "outlined", "shadowed")

HELD_OUT_COLOURS: Final = ("cyan", "brown")
HELD_OUT_SHAPES: Final = ("ring", "moon")
HELD_OUT_PATTERNS: Final = ("zigzag",)
HELD_OUT_COMBINATIONS: Final = frozenset(
    {
        ("circle", "yellow"),
        ("square", "pink"),
        ("triangle", "green"),
        ("star", "purple"),
        ("cross", "red"),
        ("heart", "blue"),
    }
)
"""(shape, colour) pairs never shown together, though each half is common."""

TRAIN_COLOURS: Final = tuple(name for name in COLOURS if name not in HELD_OUT_COLOURS)
TRAIN_SHAPES: Final = tuple(name for name in SHAPES if name not in HELD_OUT_SHAPES)
TRAIN_PATTERNS: Final = tuple(name for name in PATTERNS if name not in HELD_OUT_PATTERNS)

PLACES: Final = (
    "in the top left",
    "at the top",
    "in the top right",
    "on the left",
    "in the middle",
    "on the right",
    "in the bottom left",
    "at the bottom",
    "in the bottom right",
)
"""The nine regions, row by row."""
