"""Randomness that depends on what a thing is, never on worker, batch, order or device.

A *key* is a sequence of strings and integers (say a triplet's id, "ancestral", a seed index and a
step). Equal keys give equal draws everywhere; there is no generator state to carry or to save.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def keyed_seed(*key: str | int) -> int:
    """A 63-bit seed, a pure function of `key`.

    The key is hashed as JSON, so that `("a", "bc")` and `("ab", "c")`, or `1` and `"1"`, differ.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def keyed_noise(
    *key: str | int, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise of `shape` on the CPU, a pure function of `key` and `shape`.

    It is drawn in float32 and then converted, so that every dtype sees the same noise. NumPy draws
    it, since torch's CPU generator looks at the low 32 bits of a seed only, of which a large data
    set would soon use some twice.
    """
    generator = np.random.default_rng(keyed_seed(*key))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32)).to(dtype)
