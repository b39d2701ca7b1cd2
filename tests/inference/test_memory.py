"""Memory that is freed is not asked of the system again."""

import platform
import subprocess
import sys

import pytest

from inference.memory import memory_shortage

FAULTS = """
import resource
import torch
from inference.memory import keep_memory, memory_shortage

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(6, 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_memory("cuda")
before = faults(10)
keep_memory("cpu")
faults(10)  # until small blocks between the large ones have found their place
print(before, faults(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
def test_pages_are_asked_of_the_system_once() -> None:
    line = [sys.executable, "-c", FAULTS]
    output = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    given_back, kept = map(int, output.split())
    assert given_back > 100
    assert kept <= given_back // 20


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is too little memory"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "there is too little GPU memory for 2.00 GiB more",
        ),
        (
            RuntimeError("can't allocate memory: you tried to allocate 8 bytes"),
            "there is too little memory for 8 bytes more",
        ),
        (OSError("Cannot allocate memory"), "there is too little memory"),
        (
            ImportError("a.so: failed to map segment from shared object"),
            "there is too little memory",
        ),
        (raised(ValueError("cannot be loaded"), MemoryError()), "there is too little memory"),
        (ValueError("the caption 'out of memory' is no edit"), None),
        (RuntimeError("shapes do not match"), None),
    ],
)
def test_too_little_memory_is_told_from_other_errors(error: Exception, said: str | None) -> None:
    assert memory_shortage(error) == said
