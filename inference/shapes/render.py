"""Draw a scene with anti-aliased edges, at any size.

Every outline is a signed distance field (negative inside); a pixel's coverage is the distance to
the outline, in pixels, clamped to one pixel's width. Fields follow the closed forms of
I. Quilez, "2D distance functions" (iquilezles.org/articles/distfunctions2d).
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.shapes.scene import CANVAS, PITCH, Figure, Scene
from inference.shapes.vocabulary import COLOURS

Field = NDArray[np.floating[Any]]

INK: Final = np.array([35, 38, 52], dtype=np.float32) / 255
"""Colour of the contour in the outlined style."""
CONTOUR: Final = 1.5
"""Width of that contour, in canvas units."""
SHADE: Final = 0.55
"""Factor from a colour to its darker second tone in a pattern, and from background to shadow."""
SHADOW_OFFSET: Final = 3


def render(scene: Scene, size: int = CANVAS) -> Field:
    """Draw a scene.

    Args:
        scene: What to draw.
        size: Side of the square picture, in pixels.

    Returns:
        (size, size, 3) float32 in [0, 1].
    """
    background = colour(scene.background)
    image = np.broadcast_to(background, (size, size, 3)).astype(np.float32)
    if scene.style == "shadowed":
        for figure in scene.figures:
            shadow = coverage(distance(figure, size, offset=SHADOW_OFFSET))
            image = _over(image, background * SHADE, shadow)
    for figure in scene.figures:
        field = distance(figure, size)
        image = _over(image, fill(figure, size), coverage(field))
        if scene.style == "outlined":
            image = _over(image, INK, coverage(field) * coverage(-field - CONTOUR * size / CANVAS))
    return image


def colour(name: str) -> Field:
    """A named colour as (3,) float32 in [0, 1]."""
    return np.array(COLOURS[name], dtype=np.float32) / 255


def coverage(field: Field) -> Field:
    """Share of each pixel inside the outline, in [0, 1], from distances in pixels."""
    share: Field = np.clip(0.5 - field, 0.0, 1.0)
    return share


def distance(figure: Figure, size: int = CANVAS, *, offset: float = 0.0) -> Field:
    """Signed distance, in pixels, of every pixel centre to the figure's outline: (size, size).

    Args:
        figure: The figure.
        size: Side of the picture, in pixels.
        offset: Canvas units by which to move the figure right and down (a shadow's place).
    """
    x, y = _pixels(size)
    dx, dy = x - PITCH * figure.column - offset, y - PITCH * figure.row - offset
    field: Field = OUTLINES[figure.shape](dx, dy, float(figure.radius)) * (size / CANVAS)
    return field.astype(np.float32)


def fill(figure: Figure, size: int = CANVAS) -> Field:
    """The figure's colour at every pixel, as if it covered the whole canvas: (size, size, 3)."""
    x, y = _pixels(size)
    second = tone(figure.pattern, x - PITCH * figure.column, y - PITCH * figure.row, size / CANVAS)
    shade: Field = 1.0 - (1.0 - SHADE) * second[..., None]
    return (colour(figure.colour) * shade).astype(np.float32)


def tone(pattern: str, dx: Field, dy: Field, scale: float = 1.0) -> Field:
    """Share of the darker second tone at each point of a pattern, in [0, 1].

    Args:
        pattern: A name of `PATTERNS`.
        dx, dy: Coordinates relative to the figure's centre, in canvas units.
        scale: Pixels to a canvas unit, which sets the width of the anti-aliased edge.
    """
    return coverage((PATTERN_FIELDS[pattern](dx, dy) * scale).astype(np.float32))


def _over(below: Field, above: Field, alpha: Field) -> Field:
    return (below + alpha[..., None] * (above - below)).astype(np.float32)


@lru_cache(maxsize=8)
def _pixels(size: int) -> tuple[Field, Field]:
    """Pixel centres in canvas units, as an (1, size) row and a (size, 1) column."""
    centres = ((np.arange(size) + 0.5) * CANVAS / size).astype(np.float32)
    return centres[None, :], centres[:, None]


# --- outlines: (dx, dy, radius) -> signed distance, y pointing down ------------------------------
#
# The centroid of every shape is its centre. In much noise a figure is a blob, and where the blob's
# centroid says "here" for one shape, it must say so for another: shapes that hung lower or higher
# in their cell came out one cell off when one became the other.


def _circle(x: Field, y: Field, r: float) -> Field:
    return np.hypot(x, y) - 0.95 * r


def _box(x: Field, y: Field, half_width: float, half_height: float) -> Field:
    qx, qy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0)


def _square(x: Field, y: Field, r: float) -> Field:
    return _box(x, y, 0.84 * r, 0.84 * r)


def _cross(x: Field, y: Field, r: float) -> Field:
    return np.minimum(_box(x, y, r, 0.36 * r), _box(x, y, 0.36 * r, r))


def _triangle(x: Field, y: Field, r: float) -> Field:
    return _polygon(x, y, ((0.0, -r), (r, 0.5 * r), (-r, 0.5 * r)))


def _star(x: Field, y: Field, r: float) -> Field:
    points = []
    for tip in range(10):
        reach = r * (1.03 if tip % 2 == 0 else 0.47)
        angle = math.pi * tip / 5
        points.append((reach * math.sin(angle), -reach * math.cos(angle)))
    return _polygon(x, y, tuple(points))


def _heart(x: Field, y: Field, r: float) -> Field:
    points = []
    for step in range(48):
        angle = 2 * math.pi * step / 48
        across = 16 * math.sin(angle) ** 3
        up = (
            13 * math.cos(angle)
            - 5 * math.cos(2 * angle)
            - 2 * math.cos(3 * angle)
            - math.cos(4 * angle)
        )
        points.append((across * r / 17, -(up - 0.79) * r / 17.8))
    return _polygon(x, y, tuple(points))


def _ring(x: Field, y: Field, r: float) -> Field:
    return np.abs(np.hypot(x, y) - 0.7 * r) - 0.26 * r


def _moon(x: Field, y: Field, r: float) -> Field:
    x, y = x - 0.3 * r, y + 0.06 * r
    bite = 0.67 * r - np.hypot(x - 0.47 * r, y + 0.09 * r)
    field: Field = np.maximum(_circle(x, y, 0.93 * r), bite)
    return field


def _polygon(x: Field, y: Field, points: tuple[tuple[float, float], ...]) -> Field:
    """Signed distance to a simple polygon given by its corners in order."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    nearest = np.full(shape, np.inf, dtype=np.float32)
    inside = np.zeros(shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, np.hypot(wx - ex * along, wy - ey * along))
        if ay != by:
            crosses = (y >= min(ay, by)) & (y < max(ay, by))
            inside ^= crosses & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -nearest, nearest)


OUTLINES: Final[dict[str, Callable[[Field, Field, float], Field]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "moon": _moon,
}

# --- patterns: (dx, dy) -> signed distance to the darker tone's region ---------------------------


def _solid(x: Field, y: Field) -> Field:
    return np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, dtype=np.float32)


def _striped(x: Field, y: Field) -> Field:
    field: Field = np.abs(np.mod(y + 2.0, 8.0) - 4.0) - 2.0 + 0.0 * x
    return field


def _dotted(x: Field, y: Field) -> Field:
    field: Field = np.hypot(np.mod(x + 3.0, 6.0) - 3.0, np.mod(y + 3.0, 6.0) - 3.0) - 1.7
    return field


def _checkered(x: Field, y: Field) -> Field:
    across, down = np.abs(np.mod(x, 8.0) - 4.0) - 2.0, np.abs(np.mod(y, 8.0) - 4.0) - 2.0
    return np.sign(across * down) * np.minimum(np.abs(across), np.abs(down))


def _zigzag(x: Field, y: Field) -> Field:
    wave = np.abs(np.mod(x, 8.0) - 4.0)
    return (np.abs(np.mod(y + wave, 8.0) - 4.0) - 2.0) / math.sqrt(2.0)


PATTERN_FIELDS: Final[dict[str, Callable[[Field, Field], Field]]] = {
    "solid": _solid,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "zigzag": _zigzag,
}
