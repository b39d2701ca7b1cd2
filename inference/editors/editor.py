"""The interface of all editors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from PIL import Image
from torch import Tensor

from inference.images import from_pil


class _Pixels:
    """A field that takes a PIL image or its pixels, and holds the pixels."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: object | None, owner: type | None = None) -> Tensor | None:
        return None if instance is None else cast(Tensor | None, vars(instance)[self._name])

    def __set__(self, instance: object, value: Tensor | Image.Image | None) -> None:
        vars(instance)[self._name] = from_pil(value) if isinstance(value, Image.Image) else value


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One edit, asked for by an instruction or by two prompts.

    Attributes:
        image: A PIL image, or `(3, H, W)` in [-1, 1], which it becomes; None to edit what the model
            draws for the source prompt.
        instruction: What to do, as one says it to a person.
        source: What the image shows.
        target: What the edited image is to show.
        seed: Of the noise. Equal requests give equal images, alone or in a batch.

    Raises:
        ValueError: The image has another shape, a text is empty, or there is nothing to do.
    """

    image: _Pixels = _Pixels()
    instruction: str | None = None
    source: str | None = None
    target: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image is not None and (self.image.ndim != 3 or self.image.shape[0] != 3):
            raise ValueError(f"image has shape {tuple(self.image.shape)}; expected (3, H, W)")
        if self.instruction is not None and not self.instruction.strip():
            raise ValueError("the instruction is empty; expected what to do with the image")
        if self.instruction is None and self.target is None:
            raise ValueError("the request has neither an instruction nor a target prompt")


def required(request: EditRequest, field: str, editor: str) -> Any:
    """A field of a request that an editor cannot do without.

    Raises:
        ValueError: It is missing.
    """
    value = getattr(request, field)
    if value is None:
        raise ValueError(f"{editor} needs the request's {field}, which is missing")
    return value


class Editor(Protocol):
    """Whatever edits images; its fields are its knobs."""

    @property
    def reads(self) -> frozenset[str]:
        """Fields of a request, beside its image, that make a difference to the edit."""
        ...

    def edit(self, requests: Sequence[EditRequest]) -> list[Tensor]:
        """The edited images, `(3, H, W)` in [-1, 1], each of the size of its request's image."""
        ...
