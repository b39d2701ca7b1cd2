"""Embedded prompts, as UNets are conditioned on them: the one type for models of any generation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """Embedded prompts; N of them unless said otherwise.

    Attributes:
        states: (N, L, D), what cross-attention attends to.
        pooled: (N, P), what SDXL adds to the embedding of the timestep; None for models that do
            without.
    """

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.states)

    def __getitem__(
        self, rows: int | slice | Tensor | Sequence[int] | tuple[slice, slice]
    ) -> "Text":
        """Some of the prompts."""
        return self._each(lambda part: part[rows])

    def expand(self, *sizes: int) -> "Text":
        """The same prompts again and again: N = 1 to `sizes[0]`, or N to (`sizes[0]`, N)."""
        return self._each(lambda part: part.expand(*sizes, *part.shape[1:]))

    def to(self, like: Tensor) -> "Text":
        """On the device and in the dtype of a tensor."""
        return self._each(lambda part: part.to(like))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Text":
        return Text(change(self.states), None if self.pooled is None else change(self.pooled))

    @staticmethod
    def cat(parts: "Sequence[Text]", dim: int = 0) -> "Text":
        """One after the other."""
        return Text._together(lambda tensors: torch.cat(tensors, dim), parts)

    @staticmethod
    def stack(parts: "Sequence[Text]") -> "Text":
        """Along a new first dimension."""
        return Text._together(torch.stack, parts)

    @staticmethod
    def _together(join: Callable[[list[Tensor]], Tensor], parts: "Sequence[Text]") -> "Text":
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Text(join([part.states for part in parts]), join(pooled) if pooled else None)
