"""What a training recipe still lacks on this machine, all of it at once, before a step is made."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import torch

from data_gen.shards import INDEX_FILE
from inference.files import require_writable_folder
from inference.outside import MAX_YAML_BYTES, parse_yaml, read_text
from inference.readiness import (
    Check,
    check_clip,
    check_dataset,
    check_library,
    check_memory,
    check_model,
    parameters,
    tried,
)
from training.sharding import STRATEGY

_FROZEN: Final = ("vae", "text_encoder", "text_encoder_2")
_MOMENTS: Final = {"adamw": 8, "adamw_8bit": 2}
"""Bytes a weight."""
_DATA_RECIPES: Final = Path(__file__).parents[1] / "data_gen" / "recipes"
_REMOTE: Final = {"s3": "s3fs", "gs": "gcsfs"}


def diagnose(options: Mapping[str, Any]) -> Iterator[Check]:
    """Every thing that a run needs, and whether it is here.

    Args:
        options: Nested, as `fit`'s recipe.
    """
    output = Path(options["output"])
    yield tried("output", lambda: require_writable_folder(output), str(output), "--output FOLDER")
    yield check_model("model.base", str(options["model"]["base"]))
    yield from _data(options["data"])
    yield from _devices(options["trainer"])
    yield from _libraries(options)
    yield _memory(options)


def _data(data: Mapping[str, Any]) -> Iterator[Check]:
    if data["shards"] is not None:
        yield _shards("data.shards", str(data["shards"]))
    for place, one in enumerate(data["sets"] or []):
        what = f"data.sets[{place}].path"
        if one["layout"] == "shards":
            yield _shards(what, one["path"])
        else:
            remedy = f"hf download {one['path']} --type dataset, where the hub can be reached"
            yield check_dataset(what, one["path"], remedy)


def _shards(what: str, path: str) -> Check:
    scheme = urlsplit(path).scheme
    if scheme in _REMOTE:
        return check_library(what, _REMOTE[scheme], f"pip install {_REMOTE[scheme]}")
    if "://" in path:
        return Check(what=what, said=f"{path}, not looked at", ok=None)
    if (Path(path) / INDEX_FILE).is_file():
        return Check(what=what, said=path)
    maker = _recipe_that_writes(path)
    remedy = f"emend data run --config {maker}" if maker else "--data.shards FOLDER"
    return Check(what=what, said=f"there is no data set in {path}", ok=False, remedy=remedy)


def _recipe_that_writes(path: str) -> str | None:
    """The data recipe whose output is a folder."""
    for recipe in sorted(_DATA_RECIPES.glob("*.yaml")):
        content = parse_yaml(read_text(recipe, max_bytes=MAX_YAML_BYTES), str(recipe))
        if Path(content["output"]) == Path(path):
            return recipe.stem
    return None


def _devices(trainer: Mapping[str, Any]) -> Iterator[Check]:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = _count(trainer["devices"])
    if trainer["accelerator"] in ("gpu", "cuda"):
        nodes = trainer["num_nodes"]
        places = f" on each of {nodes} nodes" if nodes > 1 else ""
        said = f"{wanted} GPU{'s' * (wanted != 1)}{places}; torch finds {there} here"
        ok = None if nodes > 1 and not there else there >= wanted
        yield Check(what="trainer.devices", said=said, ok=ok, remedy="--trainer.devices N")
    else:
        name = torch.cuda.get_device_name() if there else "CPU, as torch finds no GPU"
        yield Check(what="trainer.accelerator", said=f"{trainer['accelerator']}: {name}")


def _count(devices: Any) -> int:
    """How many devices a trainer asks for at least: a number, a list of them, or all there are."""
    if isinstance(devices, list):
        return len(devices)
    return devices if isinstance(devices, int) and devices > 0 else 1


def _libraries(options: Mapping[str, Any]) -> Iterator[Check]:
    if options["model"]["optimizer"]["kind"] == "adamw_8bit":
        what, install = "model.optimizer.kind", "pip install 'emend[eight-bit]'"
        yield check_library(what, "bitsandbytes", install)
    if "wandb" in str(options["trainer"]["logger"]).lower():
        yield check_library("trainer.logger", "wandb", "pip install 'emend[wandb]'")
    if (clip := options["held_out_edits"]["clip"]) is not None:
        yield check_clip("held_out_edits.clip", clip)


def _memory(options: Mapping[str, Any]) -> Check:
    """Weights, gradients, moments and average in float32; activations come on top."""
    model, trainer = options["model"], options["trainer"]
    base, on_gpu = str(model["base"]), trainer["accelerator"] != "cpu"
    unet, frozen = parameters(base, ("unet",)), parameters(base, _FROZEN)
    if unet is None or frozen is None:
        return check_memory(None, "", on_gpu=on_gpu)
    if model["lora"] is not None:
        needed, said = 4 * (unet + frozen), "frozen weights, beside adapters and activations"
    else:
        shared = unet * (4 + 4 + 4 + _MOMENTS[model["optimizer"]["kind"]])
        if trainer["strategy"] == STRATEGY:
            shared /= _count(trainer["devices"]) * trainer["num_nodes"]
        needed = shared + 4 * frozen
        said = "weights, gradients, moments and average, beside activations"
    return check_memory(needed, said, on_gpu=on_gpu)
