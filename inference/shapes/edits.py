"""Typed edits: what an instruction asks for, done to a description or to a scene.

An edit names its target by shape, which two figures of one scene never share. Carrying an edit out
on a `Description` gives the edited caption; carrying it out on a `Scene` gives the picture that a
perfect editor would make.
"""

import random
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from inference.shapes.captions import Description, FigureDescription
from inference.shapes.scene import CELLS, Figure, Scene, anchor, overlap
from inference.shapes.vocabulary import (
    HELD_OUT_COMBINATIONS,
    PLACES,
    SIZES,
    STYLES,
    TRAIN_COLOURS,
    TRAIN_PATTERNS,
    TRAIN_SHAPES,
)

EditType = Literal[
    "recolour", "reshape", "resize", "move", "add", "remove", "background", "pattern", "style"
]
EDIT_TYPES: Final[tuple[EditType, ...]] = get_args(EditType)


class Inapplicable(ValueError):
    """The edit does not make sense here: no such figure, nothing to change, or no room."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change.

    Attributes:
        kind: The edit type.
        target: Shape of the figure concerned; None for `add`, `background` and `style`.
        value: The new colour, shape, size, place, background, pattern or style; None for `add`
            and `remove`.
        figure: The figure to add; None for every other kind.
    """

    kind: EditType
    target: str | None = None
    value: str | None = None
    figure: FigureDescription | None = None


ATTRIBUTES: Final[dict[str, str]] = {
    "recolour": "colour",
    "reshape": "shape",
    "resize": "size",
    "move": "place",
    "pattern": "pattern",
}
"""For each kind that changes one attribute of one figure, that attribute's name."""


def edit_description(edit: Edit, before: Description) -> Description:
    """Carry an edit out on what a caption says.

    Raises:
        Inapplicable: The edit cannot be made or would change nothing.
    """
    after = _change(edit, before)
    if after == before:
        raise Inapplicable(f"the {edit.kind} edit changes nothing")
    if len({figure.shape for figure in after.figures}) < len(after.figures):
        raise Inapplicable("two figures of one scene would have the same shape")
    if any(figure.colour == after.background for figure in after.figures):
        raise Inapplicable(f"a {after.background} figure would vanish on its background")
    return after


def edit_scene(edit: Edit, before: Scene) -> Scene:
    """Carry an edit out on a scene.

    A moved or added figure is put at its place's anchor; an added one without a place goes to the
    anchor farthest from the other figure, and is small unless it says otherwise. A figure that
    grows near the rim is shifted inwards by as few cells as it takes.

    Raises:
        Inapplicable: The edit cannot be made, would change nothing, or there is no room.
    """
    edit_description(edit, _full_description(before))
    try:
        return _change_scene(edit, before)
    except Inapplicable:
        raise
    except ValueError as problem:
        raise Inapplicable(str(problem)) from problem


def inverse(edit: Edit, before: Description) -> Edit:
    """The edit that undoes `edit`, as far as `before` says what there was.

    An undone resize goes to the other size, and an undone move to the middle (or, from there, to
    the left) where the caption had named none.
    """
    target = next((f for f in before.figures if f.shape == edit.target), None)
    match edit.kind:
        case "add":
            assert edit.figure is not None
            return Edit(kind="remove", target=edit.figure.shape)
        case "remove":
            return Edit(kind="add", figure=target)
        case "background":
            return Edit(kind="background", value=before.background)
        case "style":
            return Edit(kind="style", value=before.style)
    assert target is not None
    old = getattr(target, ATTRIBUTES[edit.kind])
    if old is None:
        old = _default_inverse(edit)
    return Edit(
        kind=edit.kind, target=edit.value if edit.kind == "reshape" else edit.target, value=old
    )


def propose(description: Description, kind: EditType, rng: random.Random) -> Edit | None:
    """Draw an edit of one kind that makes sense for a description, from training vocabulary alone.

    Returns:
        An edit whose result shows no held-out combination, or None where the kind has none to
        offer (adding a third figure, removing the only one).
    """
    candidates = _candidates(description, kind, rng)
    rng.shuffle(candidates)
    for edit in candidates:
        try:
            after = edit_description(edit, description)
        except Inapplicable:
            continue
        if not any((f.shape, f.colour) in HELD_OUT_COMBINATIONS for f in after.figures):
            return edit
    return None


def _candidates(description: Description, kind: EditType, rng: random.Random) -> list[Edit]:
    targets = [figure.shape for figure in description.figures]
    match kind:
        case "background":
            return [Edit(kind=kind, value=colour) for colour in TRAIN_COLOURS]
        case "style":
            return [Edit(kind=kind, value=style) for style in STYLES]
        case "remove":
            return [Edit(kind=kind, target=target) for target in targets]
        case "add":
            return [Edit(kind=kind, figure=_random_figure(rng)) for _ in range(8)]
    values = {
        "recolour": TRAIN_COLOURS,
        "reshape": TRAIN_SHAPES,
        "resize": SIZES,
        "move": PLACES,
        "pattern": TRAIN_PATTERNS,
    }[kind]
    return [Edit(kind=kind, target=target, value=value) for target in targets for value in values]


def _random_figure(rng: random.Random) -> FigureDescription:
    return FigureDescription(
        shape=rng.choice(TRAIN_SHAPES),
        colour=rng.choice(TRAIN_COLOURS),
        pattern="solid" if rng.random() < 0.7 else rng.choice(TRAIN_PATTERNS),
        size="small" if rng.random() < 0.3 else None,
        place=rng.choice(PLACES) if rng.random() < 0.7 else None,
    )


def _change(edit: Edit, before: Description) -> Description:
    match edit.kind:
        case "background" | "style":
            whole: dict[str, Any] = {edit.kind: edit.value}
            return replace(before, **whole)
        case "add":
            assert edit.figure is not None
            if len(before.figures) == 2:
                raise Inapplicable("there are two figures already")
            return replace(before, figures=(*before.figures, edit.figure))
    position = _position(edit, [figure.shape for figure in before.figures])
    figures = list(before.figures)
    if edit.kind == "remove":
        if len(figures) == 1:
            raise Inapplicable(f"the {edit.target} is the only figure")
        del figures[position]
    else:
        change: dict[str, Any] = {ATTRIBUTES[edit.kind]: edit.value}
        figures[position] = replace(figures[position], **change)
    return replace(before, figures=tuple(figures))


def _change_scene(edit: Edit, before: Scene) -> Scene:
    match edit.kind:
        case "background" | "style":
            whole: dict[str, Any] = {edit.kind: edit.value}
            return replace(before, **whole)
        case "add":
            assert edit.figure is not None
            return replace(
                before, figures=(*before.figures, _placed(edit.figure, before.figures[0]))
            )
    position = _position(edit, [figure.shape for figure in before.figures])
    figures = list(before.figures)
    if edit.kind == "remove":
        del figures[position]
    else:
        assert edit.value is not None
        figures[position] = _changed_figure(figures[position], edit.kind, edit.value)
    return replace(before, figures=tuple(figures))


def _changed_figure(figure: Figure, kind: EditType, value: str) -> Figure:
    match kind:
        case "move":
            column, row = anchor(value)
            return replace(figure, column=column, row=row)
        case "resize":
            cells = CELLS[value]
            return replace(
                figure,
                size=value,
                column=min(max(figure.column, cells.start), cells.stop - 1),
                row=min(max(figure.row, cells.start), cells.stop - 1),
            )
        case _:
            change: dict[str, Any] = {ATTRIBUTES[kind]: value}
            return replace(figure, **change)


def _placed(said: FigureDescription, other: Figure) -> Figure:
    """The figure that an `add` puts beside `other`."""

    def at(place: str) -> Figure:
        column, row = anchor(place)
        return Figure(
            shape=said.shape,
            colour=said.colour,
            pattern=said.pattern,
            size=said.size or "small",
            column=column,
            row=row,
        )

    def distance(figure: Figure) -> int:
        return (figure.column - other.column) ** 2 + (figure.row - other.row) ** 2

    figure = at(said.place) if said.place else max(map(at, PLACES), key=distance)
    if overlap(figure, other):
        raise Inapplicable(f"there is no room for another figure {figure.place}")
    return figure


def _full_description(scene: Scene) -> Description:
    return Description(
        figures=tuple(
            FigureDescription(
                shape=figure.shape,
                colour=figure.colour,
                pattern=figure.pattern,
                size=figure.size,
                place=figure.place,
            )
            for figure in scene.figures
        ),
        background=scene.background,
        style=scene.style,
    )


def _position(edit: Edit, shapes: list[str]) -> int:
    if edit.target not in shapes:
        raise Inapplicable(f"there is no {edit.target} here, only {' and '.join(shapes)}")
    return shapes.index(edit.target)


def _default_inverse(edit: Edit) -> str:
    if edit.kind == "resize":
        return SIZES[0] if edit.value == SIZES[1] else SIZES[1]
    return "in the middle" if edit.value != "in the middle" else "on the left"
