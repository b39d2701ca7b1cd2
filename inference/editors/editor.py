"""The interface of all editors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One edit.

    Attributes:
        image: `(3, H, W)` in [-1, 1].
        instruction: What to do, as one says it to a person.
        seed: Of the noise. Equal requests give equal images, alone or in a batch.

    Raises:
        ValueError: The image has another shape, or the instruction is empty.
    """

    image: Tensor
    instruction: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[0] != 3:
            raise ValueError(f"image has shape {tuple(self.image.shape)}; expected (3, H, W)")
        if not self.instruction.strip():
            raise ValueError("the instruction is empty; expected what to do with the image")


class Editor(Protocol):
    """Whatever edits images; its fields are its knobs."""

    def edit(self, requests: Sequence[EditRequest]) -> list[Tensor]:
        """The edited images, `(3, H, W)` in [-1, 1], each of the size of its request's image."""
        ...
