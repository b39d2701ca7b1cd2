"""What pins a checkpoint's behaviour beyond diffusers' own configuration.

It stands in `emend.json` at the root of its folder, a file that stock diffusers does not look at.
Folders without one, InstructPix2Pix's own among them, get the defaults.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from inference.choices import SamplerName
from inference.files import write_lines
from inference.number_types import Finite, Positive, PositiveSmallCount, checks_numbers
from inference.outside import read_object

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
    return settings_of(read_object(path), str(path))


def settings_of(found: Mapping[str, Any], name: str) -> Settings:
    """Settings of an object of JSON; `ValueError` names it by `name`."""
    known = [entry.name for entry in dataclasses.fields(Settings)]
    for key, value in found.items():
        if key not in known:
            raise ValueError(f"{name}: unknown key {key!r}; expected some of {known}")
        if key == "sampler":
            if value not in get_args(SamplerName):  # a list or an object has no hash
                raise ValueError(
                    f"{name}: sampler is {value!r}; expected one of {list(get_args(SamplerName))}"
                )
        elif type(value) is not int and (type(value) is not float or key == "steps"):
            expected = "a whole number" if key == "steps" else "a number"
            raise ValueError(f"{name}: {key} is {value!r}; expected {expected}")
    try:
        return Settings(**found)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def save_settings(folder: str | Path, settings: Settings) -> None:
    """Write `emend.json` into a diffusers folder."""
    write_lines(Path(folder) / SETTINGS_FILE, [json.dumps(dataclasses.asdict(settings), indent=2)])
