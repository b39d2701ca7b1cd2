"""`edit photo.png "make it night"`: words without an option, as options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")


def with_options(line: Sequence[str]) -> list[str]:
    """The words behind `edit` as `--images` and `--instruction`; any other line as it is.

    A word is a picture if there is such a file or folder, if it is a URL, or if it ends as pictures
    do; what follows the pictures is the instruction, or several.

    Args:
        line: A command line without the program.

    Raises:
        ValueError: Pictures or instructions are given in both ways, or a picture follows an
            instruction.
    """
    if line[:1] != ["edit"]:
        return list(line)
    end = next((n for n, word in enumerate(line) if word.startswith("-")), len(line))
    words, rest = line[1:end], line[end:]
    pictures = [word for word in words if _is_picture(word)]
    texts = [word for word in words if not _is_picture(word)]
    if list(words) != pictures + texts:
        raise ValueError(f"expected pictures, then what to do with them; got {' '.join(words)}")
    options: list[str] = []
    for name, values in (("--images", pictures), ("--instruction", texts)):
        if values and any(word.partition("=")[0] == name for word in rest):
            raise ValueError(f"{values[0]!r} and {name}: expected one of the two ways")
        options += [name, *values] if values else []
    return ["edit", *options, *rest]


def _is_picture(word: str) -> bool:
    if word.lower().endswith(_PICTURES) or word.startswith(("http://", "https://")):
        return True
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # too long for a path, as a long instruction is
        return False
