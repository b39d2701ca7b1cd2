"""What a command needs before it can begin: models, endpoints, keys, libraries, memory.

`Check` is one line of a doctor's report. Nothing here downloads weights, sends a question or shows
a key: the hub is asked for sizes, an endpoint for the list of its models.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import openai
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from inference.backbone import require_parts
from inference.clip import hub_repository, require_clip
from inference.endpoints.config import EndpointConfig
from inference.endpoints.connection import place, sync_api
from inference.endpoints.keys import NO_KEY, api_key
from inference.loading import loading
from inference.model_names import (
    ModelKind,
    Repository,
    bytes_to_fetch,
    cached,
    located,
    repository_of,
)
from inference.outside import read_object

GIB: Final = 2**30
_ANSWER_S: Final = 5.0
_MARKS: Final = {True: "✓", False: "✗", None: "·"}


class NotReady(ValueError):
    """Something is missing."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that is needed.

    Attributes:
        what: The option or the thing, in a word or two.
        said: What was found.
        ok: Whether it suffices; None where that cannot be told, which stops nobody.
        remedy: What to do where it does not: a command, or an option.
    """

    what: str
    said: str
    ok: bool | None = True
    remedy: str = ""


def report(checks: Iterable[Check], name: str) -> None:
    """Print a line for each check, and what helps below those that fail.

    Raises:
        NotReady: One fails.
    """
    found = list(checks)
    width = max((len(check.what) for check in found), default=0)
    for check in found:
        print(f"{_MARKS[check.ok]} {check.what:{width}}  {check.said}")
        if check.remedy and check.ok is not True:
            print(f"  {'':{width}}  → {check.remedy}")
    missing = [check.what for check in found if check.ok is False]
    if missing:
        raise NotReady(f"{name} lacks {', '.join(dict.fromkeys(missing))}")
    print(f"{name} can begin")


def tried(what: str, action: Callable[[], object], said: str, remedy: str = "") -> Check:
    """A check that passes unless an action raises, whose error then is what it says."""
    try:
        action()
    except (ValueError, OSError) as error:
        return Check(what=what, said=str(error), ok=False, remedy=remedy)
    return Check(what=what, said=said)


def check_model(what: str, name: str, kind: ModelKind = "pipeline") -> Check:
    """Whether a model that a person named is here, whole, or how large it is and how to fetch it.

    Args:
        what: The option.
        name: As `located` takes it.
        kind: What it is to be.
    """
    if (repository := repository_of(name, kind)) is not None:
        if (folder := cached(repository)) is None:
            return _to_fetch(what, repository)
        if (fault := _fault(folder, kind)) is not None:
            return Check(what=what, said=fault, ok=False, remedy=repository.command)
        return Check(what=what, said=f"{name}, in the hub's cache, {_gib(_weight(folder))}")
    try:
        folder = located(name, kind)
    except FileNotFoundError as error:
        return Check(what=what, said=str(error), ok=False)
    if not folder.is_dir():
        said = f"there is no folder {name}"
        return Check(what=what, said=said, ok=False, remedy="OWNER/NAME of the hub does as well")
    fault = _fault(folder, kind)
    said = fault or f"{name}, {_gib(_weight(folder))}"
    return Check(what=what, said=said, ok=fault is None)


def check_clip(what: str, name: str) -> Check:
    """The same of a CLIP, which open_clip may know by architecture and tag."""
    if repository_of(name, "clip") is None:
        return check_model(what, name, "clip")
    hub = hub_repository(name)
    found = check_model(what, hub or name, "clip")
    return replace(found, said=f"{name} of open_clip: {found.said}") if hub else found


def _to_fetch(what: str, repository: Repository) -> Check:
    try:
        said = f"{repository.name} is not here: {_gib(bytes_to_fetch(repository))} to fetch"
    except FileNotFoundError as error:
        said = str(error).partition(" nor is the model")[0].rstrip(",")
        said += "; its size is not known" if "reached" in said else ""
    except ValueError as error:
        said = str(error)
    return Check(what=what, said=said, ok=False, remedy=repository.command)


def _fault(folder: Path, kind: ModelKind) -> str | None:
    """What a model's folder lacks; None where it is whole."""
    wanted = {"pipeline": ("unet", "vae", "text_encoder")}
    if kind == "safety" and (folder / "safety_checker").is_dir():
        folder /= "safety_checker"
    try:
        if kind == "pipeline":
            require_parts(folder)
        if kind == "clip":
            require_clip(folder)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    for part in wanted.get(kind, (".",)):
        if not any((folder / part).glob("*.safetensors")):
            return f"{folder / part} holds no safetensors"
    return None


def check_endpoint(what: str, config: EndpointConfig) -> list[Check]:
    """Whether an endpoint's key is set, and whether it answers and has the model."""
    base_url = config.base_url
    if base_url is None:
        return [check_model(f"{what}.model", config.model, "transformers")]
    try:
        key = api_key(config.key_env, base_url)
    except ValueError as error:
        return [
            Check(what=f"{what}.key_env", said=str(error), ok=False, remedy="export it"),
            Check(what=f"{what}.base_url", said=f"{base_url}, not asked without its key", ok=None),
        ]
    said = "no key is asked for" if key == NO_KEY else "its environment variable is set"
    return [Check(what=f"{what}.key_env", said=said), _reached(what, config, key)]


def _reached(what: str, config: EndpointConfig, key: str) -> Check:
    url = f"{what}.base_url"
    where = place(str(config.base_url))
    try:
        with sync_api(str(config.base_url), key).with_options(
            timeout=_ANSWER_S, max_retries=0
        ) as api:
            names = [model.id for model in api.models.list().data]
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        said = f"{where} does not take the key"
        return Check(what=url, said=said, ok=False)
    except openai.APIStatusError as error:  # it is there, and lists no models
        return Check(what=url, said=f"{where} answers, with {error.status_code} to a list", ok=None)
    except (openai.OpenAIError, ValueError) as error:
        said, remedy = f"{where} cannot be reached: {error}", f"start it, or --{url} URL"
        return Check(what=url, said=said, ok=False, remedy=remedy)
    if config.model in names:
        return Check(what=url, said=f"{where} has {config.model}")
    few = ", ".join(names[:5]) + (f" and {len(names) - 5} others" if len(names) > 5 else "")
    said = f"{where} has no {config.model!r}; it has {few or 'no model'}"
    return Check(what=f"{what}.model", said=said, ok=False)


def check_library(what: str, module: str, command: str) -> Check:
    """Whether a library is installed, without importing it."""
    if importlib.util.find_spec(module) is not None:
        return Check(what=what, said=f"{module} is installed")
    return Check(what=what, said=f"needs {module}", ok=False, remedy=command)


def check_dataset(what: str, name: str, remedy: str) -> Check:
    """Whether a data set is a folder or a file here, or can be reached on the hub."""
    import huggingface_hub

    if Path(name).exists():
        return Check(what=what, said=name)
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=_ANSWER_S)
    except Exception as error:  # the library's, and its HTTP client's
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = f"{name} is not here, nor to be reached on the hub: {lines[0]}"
        return Check(what=what, said=said, ok=False, remedy=remedy)
    return Check(what=what, said=f"{name} of the hub")


def check_memory(needed: float | None, said: str, *, on_gpu: bool) -> Check:
    """Whether a device has the memory that weights and what belongs to them take.

    Args:
        needed: Bytes; None where the model's configuration is not here.
        said: What takes them.
        on_gpu: Whether it is a GPU's that counts.
    """
    there, device = device_memory(on_gpu=on_gpu)
    if needed is None:
        said = "told once the model is here, or the hub can be reached"
        return Check(what="memory", said=f"{said}; {device} has {_gib(there)}", ok=None)
    said = f"{_gib(needed)} for {said}; {device} has {_gib(there)}"
    return Check(what="memory", said=said, ok=needed <= there)


def device_memory(*, on_gpu: bool) -> tuple[float, str]:
    """Bytes of the first GPU, or of this machine, and its name."""
    if on_gpu and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return float(found.total_memory), str(found.name)
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")), "this machine"


def parameters(name: str, parts: Iterable[str]) -> float | None:
    """Weights of some parts of a model, counted on the meta device from its configurations alone.

    Args:
        name: As `located` takes it.
        parts: Of `unet`, `vae`, `text_encoder`, `text_encoder_2`; those that it has count.

    Returns:
        Their number; None where the configurations are not here and cannot be fetched.
    """
    try:
        folder = located(name, weights=False)
        return float(sum(_count(folder / part) for part in parts if (folder / part).is_dir()))
    except (OSError, ValueError):
        return None


def _count(part: Path) -> int:
    config = read_object(part / "config.json")
    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    with loading(str(part)), torch.device("meta"):
        module: nn.Module = (
            kinds[part.name].from_config(config)
            if part.name in kinds
            else CLIPTextModel(CLIPTextConfig(**config))
        )
    return sum(weight.numel() for weight in module.parameters())


def _weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _gib(size: float) -> str:
    """A size in words; whole gigabytes hide what a small model takes."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
