"""What a method asks of a UNet: rows evaluated, and rows whose gradient was taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Rows:
    """Rows of a UNet's batches so far."""

    evaluated: int = 0
    with_gradient: int = 0


@contextmanager
def counted(unet: nn.Module) -> Iterator[Rows]:
    """Count the rows of every call of a UNet."""
    rows = Rows()

    def count(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        rows.evaluated += len(inputs[0])
        rows.with_gradient += len(inputs[0]) if output.sample.requires_grad else 0

    handle = unet.register_forward_hook(count)
    try:
        yield rows
    finally:
        handle.remove()
