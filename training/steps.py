"""Optimiser steps of one batch or several: where one ends, and which samples it was made of."""

from collections.abc import Callable, Sequence
from typing import Final

import pytorch_lightning as pl
import torch
from torch import Tensor

SHOWN: Final = 8
"""Pairs that a message names at most."""


def ends_a_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a batch is the last that an optimiser step accumulates."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class StepRecord:
    """The batches of one optimiser step on this rank, and their losses, to be named if it fails."""

    def __init__(self) -> None:
        self._batches: list[tuple[Sequence[int], Tensor]] = []

    def add(self, positions: Sequence[int], loss: Tensor) -> None:
        """Note a batch; its loss is not looked at yet, which would wait for the device."""
        self._batches.append((positions, loss.detach()))

    @property
    def loss(self) -> Tensor:
        """Mean of the losses of the batches, a scalar: the batches of a step are of one size."""
        return torch.stack([loss for _, loss in self._batches]).mean()

    def clear(self) -> None:
        """Begin the next step."""
        self._batches = []

    def suspects(self, key: Callable[[int], str]) -> str:
        """The batches whose loss is not finite, or all where every loss is, by their pairs' keys.

        Args:
            key: Of the pair at a position.
        """
        bad = [positions for positions, loss in self._batches if not torch.isfinite(loss)]
        blamed = bad or [positions for positions, _ in self._batches]
        flat = [position for positions in blamed for position in positions]
        if not flat:
            return "no batch of this rank"
        names = ", ".join(key(position) for position in flat[:SHOWN])
        more = f" and {len(flat) - SHOWN} more" if len(flat) > SHOWN else ""
        losses = "not finite" if bad else "finite"
        return f"positions {flat[0]} to {flat[-1]} ({names}{more}), whose loss is {losses}"
