"""The layout of InstructPix2Pix's own data sets (``dataset_creation/``, ``edit_dataset.py``).

``seeds.json`` lists [folder, [seed, ...]]. A folder holds ``prompt.json`` with the texts, the
pictures ``{seed}_0.jpg`` and ``{seed}_1.jpg``, and ``metadata.jsonl`` with a line of scores a seed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from data_gen.imports.layouts import Ends, Refused, Said, ends_below, read_below
from data_gen.records import Scores
from inference.outside import (
    MAX_RECORDS_BYTES,
    parse_json,
    read_text,
    split_records,
)

_SCORES: Final = {
    "image_image": "clip_sim_image",
    "text_source": "clip_sim_0",
    "text_edited": "clip_sim_1",
    "directional": "clip_sim_dir",
}
_LINE: Final = frozenset({"seed", "p2p_threshold", "cfg_scale"})
_PROMPT: Final = frozenset({"edit", "input", "caption", "output"})
_MAX_SEED: Final = 2**63 - 1


class SeedsFolder:
    """A folder with ``seeds.json``.

    Args:
        root: The folder.

    Raises:
        FileNotFoundError: There is no ``seeds.json`` in it.
        ValueError: That is no list.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pairs = list(_listed(root / "seeds.json"))
        self._folder = lru_cache(maxsize=1)(self._read_folder)  # a folder's seeds come in a row

    def __len__(self) -> int:
        return len(self._pairs)

    def where(self, position: int) -> str:
        """The folder and the seed."""
        name, seed = self._pairs[position]
        return f"{name}/{seed}"

    def key(self, position: int) -> str:
        """The same."""
        return self.where(position)

    def said(self, position: int) -> Said:
        """Read ``prompt.json`` and the seed's line of ``metadata.jsonl``."""
        name, seed = self._pair(position)
        prompt, lines = self._folder(name)
        line = lines.get(seed, {})
        scores = _scores(line)
        extra = {key: value for key, value in prompt.items() if key not in _PROMPT}
        taken = _LINE if scores is None else _LINE.union(_SCORES.values())
        extra |= {key: value for key, value in line.items() if key not in taken}
        return Said(
            prompt=name,
            instruction=_text(prompt, "edit"),
            # The released sets say input, what generate_txt_dataset.py of old wrote is a caption.
            caption=_text(prompt, "input" if "input" in prompt else "caption"),
            edited_caption=_text(prompt, "output"),
            seed=seed,
            p=_number(line, "p2p_threshold"),
            guidance=_number(line, "cfg_scale"),
            scores=scores,
            extra=extra,
        )

    def pictures(self, position: int) -> tuple[bytes, bytes]:
        """Read ``{seed}_0.jpg`` and ``{seed}_1.jpg``."""
        source, edited = (read_below(self.root, name) for name in self._names(position))
        return source, edited

    def ends(self, position: int) -> tuple[Ends, Ends]:
        """Read the ends of the two."""
        source, edited = (ends_below(self.root, name) for name in self._names(position))
        return source, edited

    def notes(self) -> list[str]:
        """Everything is taken over."""
        return []

    def _names(self, position: int) -> list[str]:
        name, seed = self._pair(position)
        return [f"{name}/{seed}_{number}.jpg" for number in (0, 1)]

    def _pair(self, position: int) -> tuple[str, int]:
        name, seed = self._pairs[position]
        digits = str(seed)
        if not isinstance(name, str) or not (digits.isascii() and digits.isdecimal()):
            raise Refused("seeds.json lists what is no folder with seeds")
        if len(digits) > len(str(_MAX_SEED)) or int(digits) > _MAX_SEED:
            raise Refused("a seed has more than 63 bits")
        return name, int(digits)

    def _read_folder(self, name: str) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        """A folder's prompt, and the last line of each seed: a rerun appends, and overwrites."""
        prompt = _parsed(read_below(self.root, f"{name}/prompt.json"), "prompt.json")
        if not (self.root / name / "metadata.jsonl").is_file():
            return prompt, {}
        content = read_below(self.root, f"{name}/metadata.jsonl")
        parsed = [_parsed(line, "metadata.jsonl") for line in _records(content)]
        return prompt, {line["seed"]: line for line in parsed if isinstance(line.get("seed"), int)}


def _listed(path: Path) -> Iterator[tuple[Any, Any]]:
    """The pairs of ``seeds.json``: (folder, seed)."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, which prepare_dataset.py of that code writes")
    found = parse_json(read_text(path, max_bytes=MAX_RECORDS_BYTES), str(path))
    if not isinstance(found, list):
        raise ValueError(f"{path} holds no list: expected [[folder, [seed, ...]], ...]")  # noqa: TRY004
    for entry in found:
        name, seeds = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        for seed in seeds if isinstance(seeds, list) else [None]:
            yield name, seed


def _records(content: bytes) -> list[str]:
    try:
        return [text for _, text in split_records(content, "metadata.jsonl")]
    except ValueError as error:
        raise Refused("its metadata.jsonl is damaged") from error


def _parsed(content: bytes | str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)  # numbers that are not finite are refused seed by seed
    except (ValueError, RecursionError) as error:
        raise Refused(f"its {name} is damaged") from error
    if not isinstance(found, dict):
        raise Refused(f"its {name} is damaged")
    return found


def _text(prompt: Mapping[str, Any], key: str) -> str:
    if not isinstance(prompt.get(key), str):
        raise Refused(f"its prompt.json has no text {key!r}")
    return str(prompt[key])


def _number(line: Mapping[str, Any], key: str) -> float | None:
    value = line.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"its {key} is no number")
    return float(value)


def _scores(line: Mapping[str, Any]) -> Scores | None:
    """All four scores or none."""
    found = {ours: _number(line, theirs) for ours, theirs in _SCORES.items()}
    known = {name: value for name, value in found.items() if value is not None}
    return Scores(**known) if len(known) == len(_SCORES) else None
