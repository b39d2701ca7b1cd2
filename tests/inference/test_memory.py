"""Memory that is freed is not asked of the system again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from inference.memory import keep_memory

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
