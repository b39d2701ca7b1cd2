"""Pictures that others made, as shards hold them: upright RGB JPEGs, checked before decoding.

A JPEG that is so already keeps its very bytes, but for an ICC profile that changes nothing;
anything else is encoded anew, in sRGB.
"""

import io
import warnings
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from data_gen.records import ImageArray
from data_gen.shards.members import (
    MAX_MEMBER_BYTES,
    MAX_PIXELS,
    ShardError,
    decode_image,
    encode_jpeg,
    without_profile,
)
from inference.pictures import FORMATS, header_fault, is_in_srgb, on_white, profile_fault

_UPRIGHT: Final = 1


class BadPicture(ValueError):
    """A picture that will not be used; the message is the reason, from a short list."""


class Picture(NamedTuple):
    """A picture as a shard holds it.

    Attributes:
        jpeg: Its bytes.
        pixels: (H, W, 3) uint8.
        note: What of the file is ignored, see `profile_fault`.
    """

    jpeg: bytes
    pixels: ImageArray
    note: str | None


def as_jpeg(content: bytes) -> Picture:
    """Bring the bytes of a PNG, JPEG or WebP file to those of an upright RGB JPEG.

    Transparent parts are laid on white, palettes and CMYK become RGB, and a turn that a camera
    noted is carried out.

    Args:
        content: The file's bytes.

    Raises:
        BadPicture: It is none, is not whole, too large or animated, or has over 8 bits a channel.
    """
    pixels, is_so_already, note = _decoded(content)
    jpeg = without_profile(content) if is_so_already else encode_jpeg(pixels)
    return Picture(jpeg, pixels, note)


def as_pixels(content: bytes) -> ImageArray:
    """The pixels of such a file, (H, W, 3) uint8, without making a JPEG of it; see `as_jpeg`."""
    return _decoded(content)[0]


def _decoded(content: bytes) -> tuple[ImageArray, bool, str | None]:
    """The pixels, whether the file is an upright RGB JPEG, and what of it was ignored."""
    if not content:
        raise BadPicture("a picture is empty")
    if len(content) > MAX_MEMBER_BYTES:
        raise BadPicture("a picture has more than 64 MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        with image:
            return *_converted(content, image), profile_fault(image)
    except BadPicture:
        raise
    except UnidentifiedImageError as error:
        raise BadPicture("a picture is no PNG, JPEG or WebP") from error
    except Image.DecompressionBombError as error:
        raise BadPicture(f"a picture has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise BadPicture("a picture cannot be decoded; it may be truncated") from error


def _converted(content: bytes, image: Image.Image) -> tuple[ImageArray, bool]:
    if fault := header_fault(image, most=MAX_PIXELS):
        raise BadPicture(f"a picture {fault}")
    turned = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) != _UPRIGHT
    if image.format == "JPEG" and image.mode == "RGB" and not turned and is_in_srgb(image):
        with suppress(ShardError):  # what a strict decoder stumbles over is encoded anew
            return decode_image(content, "a picture"), True
    return np.asarray(on_white(ImageOps.exif_transpose(image))), False
