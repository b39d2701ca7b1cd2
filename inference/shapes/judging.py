"""Judge an edit by reading the picture: did it do what was asked, and leave all else alone?

An instruction does not fix everything. A moved figure may stand anywhere in the named region, and
an added one may have any size and any place that the instruction does not name. All else must be
exactly as the edit of the scene has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from inference.shapes.captions import with_article
from inference.shapes.edits import Edit
from inference.shapes.phrasings import apply, parse_instruction
from inference.shapes.reading import read
from inference.shapes.scene import Figure, Scene


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of an edit.

    Attributes:
        right: The picture shows what was asked for, and all else unchanged.
        reason: Why it is not right, in a few words; empty where it is.
        found: What the picture shows; None where reading it is unsure.
        wanted: What a perfect editor would have made.
    """

    right: bool
    reason: str
    found: Scene | None
    wanted: Scene


def judge_edit(before: Scene, instruction: str, after: NDArray[Any]) -> Verdict:
    """Judge an edited picture.

    Args:
        before: What the picture showed before the edit.
        instruction: What was asked, in any of the phrasings of this world.
        after: The edited picture, as `read` takes it.

    Raises:
        ValueError: The text is not an instruction of this world, or `after` not a picture.
        Inapplicable: The instruction does not fit the scene, so no picture could be right.
    """
    edit, _ = parse_instruction(instruction)
    wanted = apply(instruction, before)
    reading = read(after)
    found = reading.scene
    if found is None:
        reason = f"no clear scene (residual {reading.residual:.2f})"
    elif found.canonical() == before.canonical():
        reason = "nothing changed"
    else:
        reason = "; ".join(differences(found, wanted, edit))
    return Verdict(right=not reason, reason=reason, found=found, wanted=wanted)


def judge_pair(source: NDArray[Any], instruction: str, edited: NDArray[Any]) -> str:
    """Judge a pair of pictures of which nothing is known but what was asked between the two.

    Args:
        source: The picture before, as `read` takes it.
        instruction: What was asked, in any of the phrasings of this world.
        edited: The picture after.

    Returns:
        Why the pair does not show the edit, in a few words; empty where it does.
    """
    before = read(source).scene
    if before is None:
        return "no clear scene before"
    try:
        return judge_edit(before, instruction, edited).reason
    except ValueError as problem:
        return str(problem)


def matches(found: Scene, wanted: Scene, edit: Edit) -> bool:
    """Whether a scene is as good an outcome of an edit as the wanted one.

    Args:
        found: The scene to judge.
        wanted: What `edit_scene` makes of the edit.
        edit: The edit, which says what it leaves open.
    """
    return not any(differences(found, wanted, edit))


def differences(found: Scene, wanted: Scene, edit: Edit) -> Iterator[str]:
    """Say each way in which `found` is not what `edit` asks for, in a few words each."""
    if found.background != wanted.background:
        yield f"the background is {found.background}, not {wanted.background}"
    if found.style != wanted.style:
        yield f"the style is {found.style}, not {wanted.style}"
    there = {figure.shape: figure for figure in found.figures}
    for figure in wanted.figures:
        if figure.shape in there:
            yield from _figure_differences(there.pop(figure.shape), figure, edit)
        else:
            yield f"there is no {figure.shape}"
    for shape in there:
        yield f"there is {with_article(shape)}"


def _figure_differences(found: Figure, wanted: Figure, edit: Edit) -> Iterator[str]:
    added = edit.figure if edit.figure and edit.figure.shape == wanted.shape else None
    for name in ("colour", "pattern", "size"):
        left_open = name == "size" and added is not None and added.size is None
        is_, due = getattr(found, name), getattr(wanted, name)
        if is_ != due and not left_open:
            yield f"the {wanted.shape} is {is_}, not {due}"
    moved = edit.kind == "move" and edit.target == wanted.shape
    place = edit.value if moved else added.place if added else None
    if place is not None:
        if found.place != place:
            yield f"the {wanted.shape} is {found.place}, not {place}"
    elif added is None and (found.column, found.row) != (wanted.column, wanted.row):
        right, down = found.column - wanted.column, found.row - wanted.row
        yield f"the {wanted.shape} is off by {right:+d} columns and {down:+d} rows"
