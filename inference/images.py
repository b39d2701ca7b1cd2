"""Images in and out: files, arrays and PIL images to tensors in [-1, 1] and back.

Files come from users, so what they claim is checked before they are decoded.
"""

import functools
import io
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from inference.files import written_atomically

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000
"""Images with more pixels are not decoded: they would fill the memory."""

_FORMAT_OF_SUFFIX = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


_MODE_OF_SPACE: Final = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_MODES_OF_SPACE: Final = {
    "L": ("1", "L", "LA"),
    "RGB": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"),
    "CMYK": ("CMYK",),
}
_ROUNDING: Final = 2
"""By how many levels a profile of sRGB may differ from sRGB: its tables are rounded."""


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
            return from_numpy(np.asarray(on_white(ImageOps.exif_transpose(image))))
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


def image_format(path: str | Path) -> str:
    """The format that the suffix of `path` stands for: PNG, JPEG or WEBP.

    Raises:
        ValueError: It stands for none of these.
    """
    path = Path(path)
    try:
        return _FORMAT_OF_SUFFIX[path.suffix.lower()]
    except KeyError:
        expected = ", ".join(_FORMAT_OF_SUFFIX)
        raise ValueError(f"{path} ends in {path.suffix!r}; expected one of {expected}") from None


def from_numpy(pixels: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    """`(H, W, 3)`, uint8 in 0 to 255 or float in [0, 1], to `(3, H, W)` in [-1, 1]."""
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels have shape {pixels.shape}; expected (H, W, 3)")
    scale = 127.5 if pixels.dtype == np.uint8 else 0.5
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1) / scale - 1


def to_numpy(image: Tensor) -> NDArray[np.uint8]:
    """`(3, H, W)` in [-1, 1] to `(H, W, 3)` uint8, rounded (not truncated)."""
    scaled = ((image.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    pixels: NDArray[np.uint8] = scaled.to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def to_pil(image: Tensor) -> Image.Image:
    """`(3, H, W)` in [-1, 1] to an RGB image."""
    return Image.fromarray(to_numpy(image))


def header_fault(image: Image.Image, *, most: int) -> str | None:
    """Why an opened image is not decoded, from a short list; None where it is.

    Args:
        image: Its header has been read.
        most: Pixels that it may have.
    """
    if image.width * image.height > most:
        return f"has more than {most:,} pixels"
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: one more view of it
        return "is animated"
    return None if image.mode in EIGHT_BIT_MODES else "has more than 8 bits a channel"


def _check_header(path: Path, image: Image.Image) -> None:
    if fault := header_fault(image, most=MAX_PIXELS):
        size = f"{image.width}x{image.height}"
        raise ValueError(f"{path}, {size} pixels of mode {image.mode}, {fault}")


def on_white(image: Image.Image) -> Image.Image:
    """Bring an image of 8 bits a channel to RGB in sRGB, transparent parts laid on white."""
    image = in_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def is_in_srgb(image: Image.Image) -> bool:
    """Whether an image's numbers are taken for sRGB as they are.

    So they are without an ICC profile, with one of sRGB, and with one that cannot be read or is of
    other channels than the image's.
    """
    return _transform_of(image) is None


def profile_fault(image: Image.Image) -> str | None:
    """What to say of an opened image whose ICC profile is ignored, from a short list; else None."""
    if "icc_profile" not in image.info:
        return None
    profile = image.info["icc_profile"]  # None where a part of it is missing
    mode, _ = _to_srgb(profile) if profile else (None, None)
    if mode is None:
        return "whose colour profile cannot be read"
    fits = image.mode in _MODES_OF_SPACE[mode]
    return None if fits else "whose colour profile is for other channels"


def in_srgb(image: Image.Image) -> Image.Image:
    """The colours of an image in sRGB, by its ICC profile; the image itself if `is_in_srgb`."""
    transform = _transform_of(image)
    if transform is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    found = transform.apply(image.convert(transform.input_mode))
    found.info.clear()  # no profile, and no transparent colour of the former numbers
    if alpha is not None:
        found.putalpha(alpha)
    return found


def _transform_of(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    profile = image.info.get("icc_profile")
    mode, transform = _to_srgb(profile) if profile else (None, None)
    return None if mode is None or image.mode not in _MODES_OF_SPACE[mode] else transform


@functools.lru_cache(maxsize=64)
def _to_srgb(profile: bytes) -> tuple[str | None, ImageCms.ImageCmsTransform | None]:
    """The mode that a profile is for, None if it is unreadable, and its transform to sRGB.

    The transform is None where it changes nothing.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODE_OF_SPACE[opened.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, KeyError, ValueError, TypeError, ImageCms.PyCMSError):
        return None, None
    if mode == "RGB":
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        found = np.asarray(transform.apply(Image.fromarray(probe)))
        if np.abs(found.astype(int) - probe).max() <= _ROUNDING:
            return mode, None
    return mode, transform
