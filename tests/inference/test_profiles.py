"""Colours are those of sRGB wherever a picture is read, whatever profile it carries."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_gen.imports.pictures import as_jpeg, as_pixels
from data_gen.shards.members import decode_image
from inference.images import load_image, to_numpy

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLOUR = (40, 200, 60)


def exchanged() -> bytes:
    """A profile whose red is sRGB's green and the reverse: sRGB with two tags exchanged."""
    return SRGB.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def file_of(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    image = Image.new("RGB", (16, 16), COLOUR).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profile_is_applied(tmp_path: Path, kind: str, mode: str) -> None:
    if kind == "JPEG" and mode != "RGB":
        return
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 100}
    if kind == "WEBP" and mode == "P":
        mode = "RGB"
    content = file_of(kind, mode, icc_profile=exchanged(), **lossless)
    plain = as_pixels(file_of(kind, mode, **lossless))
    (tmp_path / "picture").write_bytes(content)
    found = to_numpy(load_image(tmp_path / "picture"))
    expected = plain[0, 0][[1, 0, 2]]
    assert np.abs(found[0, 0].astype(int) - expected).max() <= 3
    assert np.array_equal(found, as_pixels(content))
    jpeg, pixels = as_jpeg(content)
    assert b"ICC_PROFILE" not in jpeg
    assert np.array_equal(pixels, found)
    if kind == "JPEG":
        assert np.array_equal(decode_image(content, "x"), found)


@pytest.mark.parametrize("profile", [SRGB, b"no profile", SRGB[:200]])
def test_a_profile_that_changes_nothing_or_is_none_leaves_the_picture(profile: bytes) -> None:
    plain, content = file_of("JPEG"), file_of("JPEG", icc_profile=profile)
    assert np.array_equal(decode_image(content, "x"), decode_image(plain, "x"))
    jpeg, pixels = as_jpeg(content)
    assert jpeg == plain
    assert np.array_equal(pixels, decode_image(plain, "x"))


def test_a_profile_of_other_channels_is_ignored() -> None:
    content = file_of("JPEG", "CMYK", icc_profile=exchanged())
    assert np.array_equal(as_pixels(content), as_pixels(file_of("JPEG", "CMYK")))
