"""What files of pictures claim, before they are decoded, and their colours in sRGB, after.

Files come from users, so what they claim is checked. Nothing here needs torch: `images` makes
tensors of them.
"""

import functools
import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageCms

FORMATS = ("PNG", "JPEG", "WEBP")


MAX_PIXELS = 50_000_000
"""Images with more pixels are not decoded: they would fill the memory."""


_FORMAT_OF_SUFFIX = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
PICTURE_SUFFIXES: Final = tuple(_FORMAT_OF_SUFFIX)


EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


_MODE_OF_SPACE: Final = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}


_MODES_OF_SPACE: Final = {
    "L": ("1", "L", "LA"),
    "RGB": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"),
    "CMYK": ("CMYK",),
}


_ROUNDING: Final = 2
"""By how many levels a profile of sRGB may differ from sRGB: its tables are rounded."""


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
