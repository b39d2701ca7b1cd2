"""The folders in which libraries keep what they fetch and compile, told where they fail to."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FAULTS: Final = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.ENOTDIR, errno.EEXIST),
        *(errno.ENOSPC, errno.EDQUOT),
    }
)
"""Of folders that are not ours, are none, or are full."""


@dataclass(frozen=True, kw_only=True)
class _Cache:
    """A folder, what it is for, and the variable of the environment that moves it."""

    variable: str
    folder: Path
    purpose: str


def unwritable_cache(error: BaseException) -> str | None:
    """What to say of an error, in a sentence, if a cache cannot be written; None where it can.

    Libraries wrap what they catch, so that causes are looked at too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FAULTS and cause.filename is not None:
            path = _absolute(os.fsdecode(cause.filename))
            if (cache := _cache_of(path)) is not None:
                return (
                    f"{path} cannot be written: {cause.strerror}; {cache.folder} keeps "
                    f"{cache.purpose}, and {cache.variable} moves it to another folder"
                )
        cause = cause.__cause__ or cause.__context__
    return None


def _cache_of(path: Path) -> _Cache | None:
    """The innermost cache that a path lies in, or the outermost that it is on the way to."""
    caches = _caches()
    within = [one for one in caches if path.is_relative_to(one.folder)]
    above = [
        one
        for one in reversed(caches)
        if one.folder.is_relative_to(path) and not one.folder.is_dir()
    ]
    return next(iter([*within, *above]), None)


def _caches() -> list[_Cache]:
    """Those that may be written, inner ones before those that they lie in by default."""
    hub = _named("HF_HOME", "XDG_CACHE_HOME", "huggingface")
    torch = _named("TORCH_HOME", "XDG_CACHE_HOME", "torch")
    found = {
        "HF_DATASETS_CACHE": (hub / "datasets", "data sets as `datasets` has prepared them"),
        "HF_HUB_CACHE": (hub / "hub", "models and data sets fetched from the hub"),
        "HF_HOME": (hub, "what is fetched from the hub"),
        "TORCH_HOME": (torch, "weights that torch fetches"),
        "TRITON_CACHE_DIR": (Path.home() / ".triton", "kernels that Triton has compiled"),
        "XDG_CACHE_HOME": (Path.home() / ".cache", "what libraries fetch"),
    }
    return [
        _Cache(variable=name, folder=_absolute(os.environ.get(name) or folder), purpose=purpose)
        for name, (folder, purpose) in found.items()
    ]


def _named(variable: str, above: str, name: str) -> Path:
    """A folder as its variable has it, or below that of another."""
    if value := os.environ.get(variable):
        return _absolute(value)
    return _absolute(os.environ.get(above) or Path.home() / ".cache") / name


def _absolute(path: str | Path) -> Path:
    return Path(os.path.expandvars(Path(path).expanduser())).absolute()
