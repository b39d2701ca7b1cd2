"""Which edits a command line asks for: pictures, texts and seeds, one edit each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from inference.outside import parse_object, read_records
from inference.pictures import PICTURE_SUFFIXES
from inference.work.common import one_each

_FIELDS: Final = ("image", "instruction", "source", "target", "seed")
_MOST_SEED: Final = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class PlannedEdit:
    """One edit of one picture.

    Attributes:
        image: The picture; None edits what the model draws for the source prompt.
        instruction: What to do.
        source: What the picture shows.
        target: What the edited picture is to show.
        seed: Of the noise.
        name: Of the file that gets the result, without folder and suffix.
    """

    image: Path | None
    instruction: str | None
    source: str | None
    target: str | None
    seed: int
    name: str = "drawn"


def plan(
    images: Sequence[str],
    *,
    instruction: Sequence[str],
    source: Sequence[str],
    target: Sequence[str],
    seeds: Sequence[int],
) -> list[PlannedEdit]:
    """Every edit that the options ask for.

    Args:
        images: Files, or folders of them; none is what the model draws.
        instruction: One for all pictures, or one each; several for one picture are an edit each.
        source: Likewise.
        target: Likewise.
        seeds: Each edit is made with each.

    Raises:
        ValueError: The texts are neither one nor as many as the pictures, or a folder has no
            picture.
    """
    paths: list[Path | None] = [path for image in images for path in _pictures(image)] or [None]
    texts = {"instruction": instruction, "source": source, "target": target}
    if len(paths) == 1:
        paths *= max(map(len, texts.values())) or 1
    count = len(paths)
    columns = {
        name: one_each(name, values, count) if values else [None] * count
        for name, values in texts.items()
    }
    edits = [
        PlannedEdit(
            image=path,
            instruction=columns["instruction"][place],
            source=columns["source"][place],
            target=columns["target"][place],
            seed=seeds[0],
        )
        for place, path in enumerate(paths)
    ]
    return _named(edits, seeds)


def read_plan(path: Path, seeds: Sequence[int]) -> list[PlannedEdit]:
    """The edits that a file of JSON lines asks for, or one JSON array.

    Each has an `image`, beside the file, and an `instruction` or a `target`, perhaps a `source` and
    a `seed`.

    Raises:
        ValueError: A line is something else; it is named.
        FileNotFoundError: There is no such file.
    """
    edits = [
        _read(parse_object(text, f"{path}, {place}"), path.parent, f"{path}, {place}", seeds[0])
        for place, text in read_records(path)
    ]
    if not edits:
        raise ValueError(f"{path} holds no edit; expected one JSON object a line")
    return _named(edits, seeds)


def _read(found: Mapping[str, Any], beside: Path, where: str, seed: int) -> PlannedEdit:
    if unknown := sorted(found.keys() - set(_FIELDS)):
        raise ValueError(f"{where}: there is no {unknown[0]}; expected some of {list(_FIELDS)}")
    if wrong := [name for name in _FIELDS[:-1] if not isinstance(found.get(name), str | None)]:
        raise ValueError(f"{where}: {wrong[0]} is {found[wrong[0]]!r}; expected a text")
    seed = found.get("seed", seed)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _MOST_SEED:
        raise ValueError(f"{where}: seed is {seed!r}; expected a whole number from 0")
    if found.get("instruction") is None and found.get("target") is None:
        raise ValueError(f"{where}: there is neither an instruction nor a target")
    image = found.get("image")
    return PlannedEdit(
        image=None if image is None else beside / image,
        instruction=found.get("instruction"),
        source=found.get("source"),
        target=found.get("target"),
        seed=seed,
    )


def _pictures(image: str) -> list[Path]:
    """A file, or the pictures of a folder by their names."""
    if image.startswith(("http://", "https://")):
        raise ValueError(f"images: {image} is a URL; download it and give the file")
    path = Path(image)
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(
            f"the folder {image} has no picture; expected {', '.join(PICTURE_SUFFIXES)}"
        )
    return found


def _named(edits: Sequence[PlannedEdit], seeds: Sequence[int]) -> list[PlannedEdit]:
    """Each edit with each seed, and with a name: numbered where one picture has several."""
    of_each, met = Counter(edit.image for edit in edits), Counter[Path | None]()
    planned = []
    for edit in edits:
        met[edit.image] += 1
        name = "drawn" if edit.image is None else edit.image.stem
        name += f"-{met[edit.image]}" if of_each[edit.image] > 1 else ""
        for seed in seeds if len(seeds) > 1 else (edit.seed,):
            ending = f"-seed{seed}" if len(seeds) > 1 else ""
            planned.append(replace(edit, seed=seed, name=name + ending))
    return planned
