"""What pins a checkpoint's behaviour beyond diffusers' own configuration.

It stands in `emend.json` at the root of its folder, a file that stock diffusers does not look at.
Folders without one, InstructPix2Pix's own among them, get the defaults.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.number_types import Finite, Positive, PositiveSmallCount, checks_numbers
from inference.samplers import SAMPLERS, SamplerName

SETTINGS_FILE: Final = "emend.json"


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a checkpoint pins beyond diffusers' own configuration.

    Attributes:
        image_latent_scale: Factor on the latents of the image condition. InstructPix2Pix was
            trained with 1 (not the VAE's scaling factor); CosXL-edit is one that scales.
        text_scale: Text guidance scale that suits the checkpoint.
        image_scale: Image guidance scale that suits the checkpoint.
        sampler: Sampler that suits the checkpoint.
        steps: Number of steps that suits the checkpoint.
    """

    image_latent_scale: Positive = 1.0
    text_scale: Finite = 7.5
    image_scale: Finite = 1.5
    sampler: SamplerName = "euler_ancestral"
    steps: PositiveSmallCount = 50


def load_settings(folder: str | Path) -> Settings:
    """Read `emend.json` of a diffusers folder; the defaults where there is none.

    Raises:
        ValueError: The file is not JSON or holds a key or a value that is not known.
    """
    path = Path(folder) / SETTINGS_FILE
    if not path.exists():
        return Settings()
    found = read_json(path)
    known = [entry.name for entry in dataclasses.fields(Settings)]
    for key, value in found.items():
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}; expected some of {known}")
        if key == "sampler":
            if value not in SAMPLERS:
                raise ValueError(f"{path}: sampler is {value!r}; expected one of {list(SAMPLERS)}")
        elif type(value) is not int and (type(value) is not float or key == "steps"):
            expected = "a whole number" if key == "steps" else "a number"
            raise ValueError(f"{path}: {key} is {value!r}; expected {expected}")
    return Settings(**found)


def save_settings(folder: str | Path, settings: Settings) -> None:
    """Write `emend.json` into a diffusers folder."""
    text = json.dumps(dataclasses.asdict(settings), indent=2) + "\n"
    (Path(folder) / SETTINGS_FILE).write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; `ValueError` where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ValueError(f"{path} holds a {found}; expected an object")  # noqa: TRY004
    return content
