"""Which device a command computes on, and an error in one sentence where it is not there."""

import re
from typing import Final

import torch

_FORM: Final = re.compile(r"(cpu|cuda|mps)(?::(\d+))?")


def device_of(wanted: str | None) -> str:
    """The device that an option asks for, as torch names it.

    Args:
        wanted: `cpu`, `cuda`, `mps`, or one of several as `cuda:1`; `auto` or None takes the first
            CUDA GPU if there is one, else the CPU.

    Raises:
        ValueError: It is none of these, or not there; says which are.
    """
    if wanted is None or wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    match = _FORM.fullmatch(wanted)
    if match is None or int(match[2] or 0) >= _count(match[1]):
        raise ValueError(f"device is {wanted!r}; expected auto or one that is here: {_present()}")
    return wanted


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return int(kind == "cpu" or torch.backends.mps.is_available())


def _present() -> str:
    """The devices of this machine, in words."""
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        return "cpu alone, as torch finds no GPU"
    return ", ".join(
        ["cpu", *(f"cuda:{number}" for number in range(_count("cuda"))), *["mps"] * _count("mps")]
    )
