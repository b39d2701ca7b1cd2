"""Instructions: many ways to ask for one edit, and understanding them.

`{thing}` names the target (`the heart`, `the red heart`), `{value}` the new attribute and
`{figure}` a figure to add. The last phrasings of each list, counted by `HELD_OUT`, are kept from
all the models.
"""

import random
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from inference.shapes.captions import (
    FIGURE_PATTERN,
    Description,
    alternatives,
    noun_phrase,
    parse_figure,
)
from inference.shapes.edits import Edit, EditType, Inapplicable, edit_scene
from inference.shapes.scene import Scene
from inference.shapes.vocabulary import COLOURS, PATTERNS, PLACES, SHAPES

HELD_OUT: Final = 3
"""How many phrasings at the end of each list no model is trained on."""

_RECOLOUR: Final = (
    "make {thing} {value}",
    "turn {thing} {value}",
    "paint {thing} {value}",
    "colour {thing} {value}",
    "change {thing} to {value}",
    "change the colour of {thing} to {value}",
    "set the colour of {thing} to {value}",
    "make the colour of {thing} {value}",
    "give {thing} a new colour: {value}",
    "switch {thing} to {value}",
    "recolour {thing} to {value}",
    "paint {thing} in {value}",
    "{thing} should be {value}",
    "let {thing} be {value}",
    "have {thing} turn {value}",
    "turn {thing} into a {value} one",
    "make {thing} look {value}",
    "i want {thing} to be {value}",
    "please make {thing} {value}",
    "could you paint {thing} {value}",
    "show {thing} in {value}",
    "fill {thing} with {value}",
    "tint {thing} {value}",
    "swap the colour of {thing} for {value}",
)
_RESHAPE: Final = (
    "turn {thing} into a {value}",
    "make {thing} a {value}",
    "change {thing} to a {value}",
    "change {thing} into a {value}",
    "replace {thing} with a {value}",
    "replace {thing} by a {value}",
    "swap {thing} for a {value}",
    "put a {value} in place of {thing}",
    "draw a {value} instead of {thing}",
    "show a {value} instead of {thing}",
    "use a {value} instead of {thing}",
    "transform {thing} into a {value}",
    "let {thing} be a {value}",
    "have {thing} become a {value}",
    "{thing} should be a {value}",
    "{thing} should become a {value}",
    "change the shape of {thing} to a {value}",
    "i want {thing} to be a {value}",
    "please turn {thing} into a {value}",
    "could you make {thing} a {value}",
    "give {thing} the shape of a {value}",
    "exchange {thing} for a {value}",
    "morph {thing} into a {value}",
    "convert {thing} to a {value}",
)
_ENLARGE: Final = (
    "make {thing} bigger",
    "make {thing} larger",
    "make {thing} large",
    "make {thing} big",
    "enlarge {thing}",
    "grow {thing}",
    "increase the size of {thing}",
    "let {thing} be larger",
    "have {thing} grow",
    "{thing} should be bigger",
    "{thing} should be large",
    "i want {thing} to be bigger",
    "i want {thing} to be large",
    "please make {thing} larger",
    "please enlarge {thing}",
    "could you make {thing} bigger",
    "turn {thing} into a large one",
    "change the size of {thing} to large",
    "draw {thing} larger",
    "show {thing} bigger",
    "scale {thing} up",
    "expand {thing}",
    "blow up {thing}",
)
_SHRINK: Final = (
    "make {thing} smaller",
    "make {thing} small",
    "make {thing} little",
    "shrink {thing}",
    "reduce {thing}",
    "decrease the size of {thing}",
    "reduce the size of {thing}",
    "let {thing} be smaller",
    "have {thing} shrink",
    "{thing} should be smaller",
    "{thing} should be small",
    "i want {thing} to be smaller",
    "i want {thing} to be small",
    "please make {thing} smaller",
    "please shrink {thing}",
    "could you make {thing} smaller",
    "turn {thing} into a small one",
    "change the size of {thing} to small",
    "draw {thing} smaller",
    "show {thing} smaller",
    "scale {thing} down",
    "downsize {thing}",
    "make {thing} tiny",
)
_MOVE: Final = (
    "move {thing} {value}",
    "put {thing} {value}",
    "place {thing} {value}",
    "shift {thing} so that it is {value}",
    "move {thing} so that it is {value}",
    "have {thing} {value}",
    "let {thing} be {value}",
    "set {thing} {value}",
    "draw {thing} {value}",
    "show {thing} {value}",
    "{thing} should be {value}",
    "{thing} should go {value}",
    "i want {thing} {value}",
    "i want {thing} to be {value}",
    "please move {thing} {value}",
    "please put {thing} {value}",
    "could you put {thing} {value}",
    "could you move {thing} {value}",
    "change the place of {thing}: {value}",
    "bring {thing} over, {value}",
    "{thing} belongs {value}",
    "position {thing} {value}",
    "relocate {thing}: {value}",
)
_ADD: Final = (
    "add {figure}",
    "put in {figure}",
    "draw {figure}",
    "insert {figure}",
    "place {figure}",
    "include {figure}",
    "also draw {figure}",
    "also show {figure}",
    "add {figure} to the picture",
    "add {figure} as well",
    "put {figure} into the picture",
    "there should be {figure} too",
    "there should also be {figure}",
    "let there be {figure}",
    "i want {figure} too",
    "please add {figure}",
    "please draw {figure}",
    "could you add {figure}",
    "could you draw {figure}",
    "show {figure} as well",
    "give the picture {figure}",
    "bring in {figure}",
    "have {figure} appear",
)
_REMOVE: Final = (
    "remove {thing}",
    "delete {thing}",
    "erase {thing}",
    "take {thing} away",
    "take away {thing}",
    "get rid of {thing}",
    "take out {thing}",
    "drop {thing}",
    "clear {thing}",
    "hide {thing}",
    "remove {thing} from the picture",
    "erase {thing} from the picture",
    "let {thing} go away",
    "have {thing} go away",
    "{thing} should go away",
    "{thing} should not be there",
    "i do not want {thing}",
    "please remove {thing}",
    "please delete {thing}",
    "could you remove {thing}",
    "leave out {thing}",
    "make {thing} disappear",
    "wipe out {thing}",
)
_BACKGROUND: Final = (
    "make the background {value}",
    "turn the background {value}",
    "change the background to {value}",
    "set the background to {value}",
    "paint the background {value}",
    "colour the background {value}",
    "change the colour of the background to {value}",
    "switch the background to {value}",
    "use a {value} background",
    "put it on a {value} background",
    "give it a {value} background",
    "show it on a {value} background",
    "draw it on a {value} background",
    "the background should be {value}",
    "let the background be {value}",
    "have a {value} background",
    "i want a {value} background",
    "i want the background to be {value}",
    "please make the background {value}",
    "could you make the background {value}",
    "replace the background with {value}",
    "fill the background with {value}",
    "swap the background for {value}",
    "make everything behind {value}",
)
_PATTERN: Final = (
    "make {thing} {value}",
    "turn {thing} {value}",
    "change {thing} to {value}",
    "change the pattern of {thing} to {value}",
    "set the pattern of {thing} to {value}",
    "make the pattern of {thing} {value}",
    "give {thing} a {value} pattern",
    "give {thing} a {value} look",
    "draw {thing} with a {value} pattern",
    "show {thing} with a {value} pattern",
    "paint {thing} with a {value} pattern",
    "use a {value} pattern for {thing}",
    "put a {value} pattern on {thing}",
    "let {thing} be {value}",
    "have {thing} be {value}",
    "{thing} should be {value}",
    "{thing} should have a {value} pattern",
    "i want {thing} to be {value}",
    "please make {thing} {value}",
    "could you make {thing} {value}",
    "switch {thing} to a {value} pattern",
    "cover {thing} with a {value} pattern",
    "fill {thing} with a {value} pattern",
    "apply a {value} pattern to {thing}",
)
_STYLE: Final = {
    "flat": (
        "make it flat",
        "make the picture flat",
        "draw it flat",
        "draw everything flat",
        "turn it into a flat picture",
        "use a flat style",
        "change the style to flat",
        "switch to a flat style",
        "make everything flat",
        "show it flat",
        "give it a flat look",
        "i want it flat",
        "i want a flat picture",
        "please make it flat",
        "please use a flat style",
        "could you make it flat",
        "it should be flat",
        "everything should be flat",
        "let it be flat",
        "have it flat",
        "render it in a flat style",
        "go for a flat style",
        "flatten the picture",
    ),
    "outlined": (
        "add outlines",
        "outline everything",
        "draw outlines",
        "draw it with outlines",
        "make it outlined",
        "make the picture outlined",
        "use an outlined style",
        "change the style to outlined",
        "switch to an outlined style",
        "give everything an outline",
        "show it with outlines",
        "give it outlines",
        "i want outlines",
        "i want it outlined",
        "please add outlines",
        "please outline everything",
        "could you add outlines",
        "it should have outlines",
        "everything should be outlined",
        "let it be outlined",
        "trace the outlines",
        "render it with outlines",
        "put outlines around everything",
    ),
    "shadowed": (
        "add shadows",
        "add a shadow",
        "draw shadows",
        "draw it with shadows",
        "make it shadowed",
        "make the picture shadowed",
        "use a shadowed style",
        "change the style to shadowed",
        "switch to a shadowed style",
        "give everything a shadow",
        "show it with shadows",
        "give it shadows",
        "i want shadows",
        "i want it with shadows",
        "please add shadows",
        "please draw shadows",
        "could you add shadows",
        "it should have shadows",
        "everything should have a shadow",
        "let it have shadows",
        "cast shadows",
        "render it with shadows",
        "put shadows behind everything",
    ),
}


def phrasings(edit: Edit, *, held_out: bool = False) -> tuple[str, ...]:
    """The templates that ask for such an edit: those for training, or those held out."""
    templates = _templates(edit.kind, edit.value)
    return templates[-HELD_OUT:] if held_out else templates[:-HELD_OUT]


def instruction(
    edit: Edit, description: Description, rng: random.Random, *, held_out: bool = False
) -> str:
    """Ask for an edit in words.

    Args:
        edit: What to ask for.
        description: What is known of the picture, for naming the target.
        rng: Draws the phrasing and how the target is named.
        held_out: Use a phrasing that no model was trained on.
    """
    template = rng.choice(phrasings(edit, held_out=held_out))
    return fill_template(template, edit, description, full=rng.random() < 0.4)


def fill_template(template: str, edit: Edit, description: Description, *, full: bool) -> str:
    """Fill a template's slots; `full` names the target with its colour (`the red heart`)."""
    thing = f"the {edit.target}"
    if full and edit.target is not None:
        colour = next(f.colour for f in description.figures if f.shape == edit.target)
        thing = f"the {colour} {edit.target}"
    figure = noun_phrase(edit.figure) if edit.figure else ""
    text = template.format(thing=thing, value=edit.value, figure=figure)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def parse_instruction(text: str) -> tuple[Edit, str | None]:
    """Understand an instruction, whichever of the phrasings it uses.

    Returns:
        The edit, and the colour by which the instruction names its target, if it does.

    Raises:
        ValueError: The text is not an instruction of this world; the message quotes it.
    """
    for pattern, kind, fixed_value in _grammar():
        match = pattern.fullmatch(text.strip().rstrip(".!").lower())
        if match is None:
            continue
        slots = match.groupdict()
        figure = parse_figure(slots["figure"]) if slots.get("figure") else None
        value = fixed_value or slots.get("value")
        return Edit(kind=kind, target=slots.get("target"), value=value, figure=figure), slots.get(
            "of"
        )
    raise ValueError(f"not an instruction of the shapes world: {text!r}")


def apply(instruction: str, scene: Scene) -> Scene:
    """The scene that a perfect editor would make of `scene` for an instruction.

    Raises:
        ValueError: The text is not an instruction of this world.
        Inapplicable: The instruction does not fit this scene.
    """
    edit, colour = parse_instruction(instruction)
    if colour is not None and not any(
        (figure.shape, figure.colour) == (edit.target, colour) for figure in scene.figures
    ):
        raise Inapplicable(f"there is no {colour} {edit.target} in the scene")
    return edit_scene(edit, scene)


def _templates(kind: EditType, value: str | None) -> tuple[str, ...]:
    match kind:
        case "recolour":
            return _RECOLOUR
        case "reshape":
            return _RESHAPE
        case "resize":
            return _ENLARGE if value == "large" else _SHRINK
        case "move":
            return _MOVE
        case "add":
            return _ADD
        case "remove":
            return _REMOVE
        case "background":
            return _BACKGROUND
        case "pattern":
            return _PATTERN
        case "style":
            assert value is not None
            return _STYLE[value]


@lru_cache(maxsize=1)
def _grammar() -> list[tuple[re.Pattern[str], EditType, str | None]]:
    """Every phrasing as a regular expression, with its kind and the value it implies."""
    rows: list[tuple[str, EditType, str | None]] = []
    valued: tuple[tuple[tuple[str, ...], EditType, Iterable[str]], ...] = (
        (_BACKGROUND, "background", COLOURS),
        (_RECOLOUR, "recolour", COLOURS),
        (_RESHAPE, "reshape", SHAPES),
        (_MOVE, "move", PLACES),
        (_PATTERN, "pattern", PATTERNS),
        (_ADD, "add", ()),
        (_REMOVE, "remove", ()),
    )
    for templates, kind, values in valued:
        rows += [(_expression(template, values), kind, None) for template in templates]
    rows += [(_expression(template, ()), "resize", "large") for template in _ENLARGE]
    rows += [(_expression(template, ()), "resize", "small") for template in _SHRINK]
    for style, templates in _STYLE.items():
        rows += [(_expression(template, ()), "style", style) for template in templates]
    return [(re.compile(expression), kind, value) for expression, kind, value in rows]


def _expression(template: str, values: Iterable[str]) -> str:
    expression = re.escape(template).replace(r"\ ", " ").replace("a \\{value\\}", "an? \\{value\\}")
    return (
        expression.replace(
            r"\{thing\}",
            rf"the (?:(?P<of>{alternatives(COLOURS)}) )?(?P<target>{alternatives(SHAPES)})",
        )
        .replace(r"\{value\}", f"(?P<value>{alternatives(values)})")
        .replace(r"\{figure\}", f"(?P<figure>{FIGURE_PATTERN})")
    )
