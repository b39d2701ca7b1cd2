"""Edits that people wrote: few-shot examples for a language model, or what it is fine-tuned on.

A file has one JSON object a line, or is an array of them. The fields may have this project's names,
or those of InstructPix2Pix's 700 triplets (``input``, ``edit``, ``output``).
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.content_id import content_id
from inference.outside import parse_object, read_records

_NAMES = {
    "caption": ("caption", "input"),
    "instruction": ("instruction", "edit"),
    "edited_caption": ("edited_caption", "output"),
    "inverse_instruction": ("inverse_instruction", "inverse_edit"),
    "edit_type": ("edit_type",),
}
_NEEDED = ("caption", "instruction", "edited_caption")


@dataclass(frozen=True, kw_only=True)
class Example:
    """An edit as somebody wrote it.

    Attributes:
        caption: What the source image shows.
        instruction: What to do to it.
        edited_caption: What the edited image shows.
        inverse_instruction: What leads back; None where the file does not say.
        edit_type: The kind of edit; None where the file does not say.
    """

    caption: str
    instruction: str
    edited_caption: str
    inverse_instruction: str | None = None
    edit_type: str | None = None


def read_examples(path: Path) -> list[Example]:
    """Read a file of edits.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: A line is no JSON object, lacks a field, has a text that is none or names one
            field twice, or the file is empty. Other fields, such as a URL, are left alone.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file of examples at {path}")
    found = []
    for place, text in read_records(path):
        where = f"{path}, {place}"
        fields = parse_object(text, where)
        try:
            found.append(_example(fields))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if not found:
        raise ValueError(f"{path} is empty: expected one JSON object a line")
    return found


def _example(fields: Mapping[str, Any]) -> Example:
    texts: dict[str, str] = {}
    for name, spellings in _NAMES.items():
        given = [spelling for spelling in spellings if fields.get(spelling) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are two names of one field")
        if given:
            value = fields[given[0]]
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{given[0]} must be a text, got {value!r}")
            texts[name] = value.strip()
        elif name in _NEEDED:
            raise ValueError(f"no field {' or '.join(spellings)}, got {sorted(fields)}")
    return Example(**texts)


class ExampleBook:
    """Examples to choose from, a few for every question.

    Args:
        examples: All of them. One with an edit type serves questions of that type alone.
        count: How many a question gets, at most.
    """

    def __init__(self, examples: Iterable[Example], count: int) -> None:
        self._examples = tuple(examples)
        self._count = count
        self._of_type: dict[str, list[Example]] = {}

    def chosen(self, caption: str, edit_type: str) -> list[Example]:
        """Return a question's examples, a function of the book and the question alone."""
        suited = self._of_type.get(edit_type)
        if suited is None:
            suited = [one for one in self._examples if one.edit_type in (None, edit_type)]
            self._of_type[edit_type] = suited
        rng = random.Random(content_id("examples", caption, edit_type))
        drawn = rng.sample(suited, min(self._count + 1, len(suited)))
        # An example of this very caption would be copied.
        return [one for one in drawn if one.caption != caption][: self._count]
