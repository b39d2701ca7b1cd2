"""The size at which pictures are edited, and pictures of one size edited together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from inference.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """At which size a picture is edited.

    Attributes:
        long_side: What its long side becomes, in pixels.
        multiple: What both sides are rounded to a multiple of.
    """

    long_side: int
    multiple: int

    @classmethod
    def of(cls, backbone: Backbone, resolution: int | None) -> Self:
        """Those of a model; `resolution` is the long side, None that which it was made for."""
        long_side = backbone.native_size if resolution is None else resolution
        return cls(long_side=long_side, multiple=backbone.size_multiple)

    def of_image(self, image: Tensor) -> tuple[int, int]:
        """Height and width at which to edit a (3, H, W) image."""
        scale = self.long_side / max(image.shape[1:])
        height, width = (
            max(1, round(side * scale / self.multiple)) * self.multiple for side in image.shape[1:]
        )
        return height, width


def in_batches(
    images: Sequence[Tensor],
    edit: Callable[[Sequence[int], Tensor], Tensor],
    sizes: Sizes,
    batch_size: int,
) -> list[Tensor]:
    """Edit pictures, those of equal working size together.

    Args:
        images: (3, H, W) in [-1, 1], of any sizes.
        edit: Called with the numbers of up to `batch_size` images and these, resized and stacked,
            (B, 3, h, w); gives the edited ones.
        sizes: The working size.
        batch_size: Most images at once.

    Returns:
        The edited images in order, each of its image's own size, on the CPU.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    by_size: dict[tuple[int, int], list[int]] = {}
    for number, image in enumerate(images):
        by_size.setdefault(sizes.of_image(image), []).append(number)
    edited: dict[int, Tensor] = {}
    for size, numbers in by_size.items():
        for first in range(0, len(numbers), batch_size):
            some = numbers[first : first + batch_size]
            resized = torch.stack([resize(images[number], size) for number in some])
            for number, result in zip(some, edit(some, resized).cpu().float(), strict=True):
                height, width = images[number].shape[1:]
                edited[number] = resize(result, (height, width))
    return [edited[number] for number in range(len(images))]


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, H, W) to (3, *size), untouched where it already has that size."""
    if image.shape[1:] == size:
        return image
    resized = interpolate(
        image[None].float(), size, mode="bicubic", align_corners=False, antialias=True
    )
    return resized[0].clamp(-1, 1)
