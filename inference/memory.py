"""Memory that a process on a CPU frees and asks for again, and how it is told that it is short."""

import ctypes
import platform
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 2**28
_KEPT_BY_OLDER: Final = 2**25
"""The most that older versions of glibc take; it is also where their own adapting ends."""


_SIGNS: Final = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|unable to mmap|"
    r"failed to map segment|can't start new thread|_ALLOC_FAILED|"
    r"worker \(pid\(?s?\)? [\d, ]+\) is killed by signal: (Killed|Bus error)",
    re.IGNORECASE,
)
"""How torch, the C library and the kernel say it, on a GPU or not."""
_WANTED: Final = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


def memory_shortage(error: BaseException) -> str | None:
    """What an error says of too little memory, in half a sentence; None where it is another.

    Libraries wrap what they catch, so that causes are looked at too.
    """
    cause: BaseException | None = error
    while cause is not None:
        told = isinstance(cause, RuntimeError | OSError | ImportError) and _SIGNS.search(str(cause))
        if told or isinstance(cause, MemoryError):
            where = "GPU memory" if "CUDA" in str(cause) else "memory"
            wanted = _WANTED.search(str(cause))
            return f"there is too little {where}" + (f" for {wanted[1]} more" if wanted else "")
        cause = cause.__cause__ or cause.__context__
    return None


def keep_memory(device: "str | torch.device") -> None:
    """Let a process that computes on a CPU keep the memory it frees, where the C library is glibc.

    glibc gives large blocks back to the system, which has to clear every page before the next layer
    or the next step asks for the same gigabytes again: a twelfth of the time of rendering on a CPU,
    half of a training step of Stable Diffusion's UNet. Blocks below 256 MB are kept from here on;
    that bounds what their gaps can cost, a few of the largest of them. For programs, not for
    libraries: the whole process is changed. See mallopt(3).

    Args:
        device: Where the process computes; nothing is done unless that is a CPU.
    """
    if str(device).partition(":")[0] != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_TRIM_THRESHOLD, -1)  # never shrink the heap
    if not library.mallopt(_M_MMAP_THRESHOLD, _KEPT):
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BY_OLDER)
