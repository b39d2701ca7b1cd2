"""Images in and out: files, arrays and PIL images to tensors in [-1, 1] and back.

Files come from users, so what they claim is checked before they are decoded, see `pictures`.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from inference.files import written_atomically
from inference.pictures import FORMATS, MAX_PIXELS, header_fault, image_format, on_white


def load_image(path: str | Path) -> Tensor:
    """Read a PNG, JPEG or WebP file.

    The orientation that a camera noted is applied; transparent parts are laid on white; the colours
    of an embedded ICC profile become those of sRGB.

    Returns:
        `(3, H, W)` in [-1, 1], float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image of these formats, truncated, animated, of more than 8 bits a
            channel, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {path}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_header(path, image)
            image.load()
            return from_pil(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image; expected PNG, JPEG or WebP") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from error
    except (OSError, SyntaxError) as error:  # SyntaxError is Pillow's word for a broken PNG
        raise ValueError(f"{path} cannot be decoded ({error}); it may be truncated") from error


def save_image(path: str | Path, image: Tensor) -> None:
    """Write `(3, H, W)` in [-1, 1] as PNG, JPEG or WebP, by the suffix of `path`; atomically.

    Raises:
        ValueError: The suffix is another one.
        OSError: The file cannot be written.
    """
    kind = image_format(path)
    with written_atomically(Path(path)) as temporary:
        to_pil(image).save(temporary, format=kind, quality=95)


def from_numpy(pixels: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    """`(H, W, 3)`, uint8 in 0 to 255 or float in [0, 1], to `(3, H, W)` in [-1, 1]."""
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels have shape {pixels.shape}; expected (H, W, 3)")
    scale = 127.5 if pixels.dtype == np.uint8 else 0.5
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1) / scale - 1


def from_pil(image: Image.Image) -> Tensor:
    """An image as `load_image` reads one from a file.

    Returns:
        `(3, H, W)` in [-1, 1], float32.
    """
    return from_numpy(np.asarray(on_white(ImageOps.exif_transpose(image))))


def to_numpy(image: Tensor) -> NDArray[np.uint8]:
    """`(3, H, W)` in [-1, 1] to `(H, W, 3)` uint8, rounded (not truncated)."""
    scaled = ((image.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    pixels: NDArray[np.uint8] = scaled.to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def to_pil(image: Tensor) -> Image.Image:
    """`(3, H, W)` in [-1, 1] to an RGB image."""
    return Image.fromarray(to_numpy(image))


def _check_header(path: Path, image: Image.Image) -> None:
    if fault := header_fault(image, most=MAX_PIXELS):
        size = f"{image.width}x{image.height}"
        raise ValueError(f"{path}, {size} pixels of mode {image.mode}, {fault}")
