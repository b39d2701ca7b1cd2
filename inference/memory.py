"""Memory that a process on a CPU frees, and asks for again a moment later."""

import ctypes
import platform
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 2**28
_KEPT_BEFORE_GLIBC_2_35: Final = 2**25
"""The most that it takes; it is also where its own adapting ends."""


def keep_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    glibc gives large blocks back to the system, which has to clear every page before the next layer
    or the next step asks for the same gigabytes again: a twelfth of the time of rendering on a CPU,
    half of a training step of Stable Diffusion's UNet. Blocks below 256 MB are kept from here on;
    that bounds what their gaps can cost, a few of the largest of them. For programs, not for
    libraries: the whole process is changed. See mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_TRIM_THRESHOLD, -1)  # never shrink the heap
    if not library.mallopt(_M_MMAP_THRESHOLD, _KEPT):
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BEFORE_GLIBC_2_35)
