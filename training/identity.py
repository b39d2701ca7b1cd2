"""What a training run is, so that a folder goes on with its own run and never with another's.

The folder of a run holds `run.json`: everything that decides its weights, part by part, and, once
the editor is exported, the step at which that was. A changed recipe, base model or data set is
then an error that names what changed, not a quiet mixture of two runs.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from data_gen.shards import INDEX_FILE
from data_gen.shards.stores import open_store
from inference.files import file_digest, folder_digest, write_lines
from inference.model_names import located, shown
from inference.outside import read_object

Identity = Mapping[str, Any]
"""Part of a run, such as `data.batch_size` or `model.base`, to its value or to its hash."""

FILE: Final = "run.json"
_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_TRAINER: Final = ("precision", "accumulate_grad_batches")
_LAYOUT: Final = "model.speed.channels_last"
_WITHOUT_EFFECT: Final = frozenset(
    {
        "data.num_workers",
        "data.cache",
        "data.cache_gib",
        "data.base",
        "model.speed.gradient_checkpointing",
        _LAYOUT,
        "model.speed.compile",
        "model.speed.tf32",
    }
)


def identify(options: Mapping[str, Any]) -> Identity:
    """Everything in the options of `fit` that decides the weights, but for the number of steps.

    Args:
        options: Nested, as `fit`'s recipe; `model.base` and `data.shards`, or the paths of
            `data.sets`, name what is hashed (what is missing is left for the run to complain of).
    """
    parts = {
        "seed_everything": options["seed_everything"],
        **_flat("model", options["model"]),
        **_flat("data", options["data"]),
        **{f"trainer.{name}": options["trainer"][name] for name in _TRAINER},
    }
    shards, sets = options["data"]["shards"], options["data"].get("sets")
    parts["model.base"] = folder_digest(located(options["model"]["base"]))
    parts["data.shards"] = shards and set_digest(str(shards))
    parts["data.sets"] = sets and [one | {"path": set_digest(one["path"])} for one in sets]
    without_effect = set(_WITHOUT_EFFECT)
    if parts.get("model.optimizer.kind") == "adamw_8bit":
        without_effect -= {_LAYOUT}  # its moments are scaled by blocks as they lie in memory
    plain = {name: value for name, value in parts.items() if name not in without_effect}
    identity: Identity = json.loads(json.dumps(plain, default=str))
    return identity


def set_digest(path: str) -> str | None:
    """What tells a data set from another: its index, its file, or the names and sizes of its files.

    Args:
        path: As in `sets.PairSet`. A name on a hub stands for itself.

    Returns:
        A hash or that name; None where there is nothing that can be read.
    """
    here = Path(path)
    if here.is_file():
        return file_digest(here)
    if "://" in path or (here / INDEX_FILE).is_file():
        with suppress(OSError, ValueError):
            return hashlib.sha256(open_store(path).whole(INDEX_FILE)).hexdigest()
        return None
    if here.is_dir():
        files = sorted(one for one in here.rglob("*") if one.is_file())
        listing = [f"{one.relative_to(here)} {one.stat().st_size}" for one in files]
        return hashlib.sha256("\n".join(listing).encode()).hexdigest() if files else None
    return path if _HUB_NAME.fullmatch(path) else None


def changed(folder: Path, identity: Identity) -> list[str]:
    """Names of the parts in which the run in `folder` is another; none where there is no run."""
    known = _read(folder).get("identity")
    if known is None:
        return []
    return sorted(name for name in {*known, *identity} if known.get(name) != identity.get(name))


def exported_step(folder: Path) -> int:
    """The step at which the run in `folder` exported its editor; 0 where it has not."""
    return int(_read(folder).get("exported_step", 0))


def record(folder: Path, identity: Identity, base: str | Path, exported_step: int = 0) -> None:
    """Write `run.json`, atomically.

    Args:
        folder: Of the run.
        identity: What the run is.
        base: The base model; its name is told, of one of the hub with its commit.
        exported_step: The step at which the editor was exported; 0 where it is not.
    """
    content = {"identity": identity, "base": shown(base), "exported_step": exported_step}
    write_lines(folder / FILE, [json.dumps(content, indent=1)])


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested options as one level of dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _flat(f"{prefix}.{key}", inner).items()
    }


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        found = read_object(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{error}: delete {folder} to start anew") from error
    if not isinstance(found.get("identity"), dict) or type(found.get("exported_step")) is not int:
        raise ValueError(f"{path} describes no run: delete {folder} to start anew")
    return found
