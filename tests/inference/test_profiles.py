"""Colours are those of sRGB wherever a picture is read, whatever profile it carries."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_gen.imports.pictures import as_jpeg, as_pixels
from data_gen.shards.members import (
    decode_image,
    ignored_profile,
    may_have_profile,
    without_profile,
)
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
    jpeg, pixels, _ = as_jpeg(content)
    assert b"ICC_PROFILE" not in jpeg
    assert np.array_equal(pixels, found)
    if kind == "JPEG":
        assert np.array_equal(decode_image(content, "x"), found)


@pytest.mark.parametrize("profile", [SRGB, b"no profile", SRGB[:200]])
def test_a_profile_that_changes_nothing_or_is_none_leaves_the_picture(profile: bytes) -> None:
    plain, content = file_of("JPEG"), file_of("JPEG", icc_profile=profile)
    assert np.array_equal(decode_image(content, "x"), decode_image(plain, "x"))
    jpeg, pixels, _ = as_jpeg(content)
    assert jpeg == plain
    assert np.array_equal(pixels, decode_image(plain, "x"))


def cmyk_profile() -> bytes:
    """A profile of four inks, of the kind that a printer's is: a table of L*a*b* at all corners.

    The colours are those of plain inks but for red and green, which are exchanged, so that it
    matters whether the profile is applied. Format: ICC.1:2001-04, 6.5.7 (lut16Type).
    """
    corners = np.array([[ink >> bit & 1 for bit in (3, 2, 1, 0)] for ink in range(16)])
    rgb = (1 - corners[:, :3]) * (1 - corners[:, 3:])
    pixels = Image.fromarray((rgb[None, :, [1, 0, 2]] * 255).astype(np.uint8))
    lab = ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB")
    found = np.asarray(to_lab.apply(pixels)).view(np.uint8).reshape(16, 3).astype(int)
    found[:, 1:] ^= 128  # a* and b* are signed here, and have an offset there
    table = (found * [0xFF00 / 255, 256, 256]).astype(">u2").tobytes()
    ends = struct.pack(">2H", 0, 0xFFFF)
    matrix = struct.pack(">9i", *(0x10000 * (place % 4 == 0) for place in range(9)))
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + struct.pack(">2H", 2, 2)
    text = b"text" + bytes(4) + b"none\0"
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    tags = {
        b"desc": name,
        b"cprt": text,
        b"wtpt": white,
        b"A2B0": lut + ends * 4 + table + ends * 3,
    }
    place, listing, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        listing += tag + struct.pack(">2I", place + len(content), len(value))
        content += padded
    head = struct.pack(">2I4s4s4s4s", place + len(content), 0, bytes([2, 64, 0, 0]), *KIND)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + listing + content


KIND = (b"prtr", b"CMYK", b"Lab ")


@pytest.mark.parametrize(
    ("inks", "expected"),
    [
        ((255, 0, 0, 0), (255, 0, 255)),  # cyan takes red away, which is green here
        ((0, 255, 0, 0), (0, 255, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_the_profile_of_a_cmyk_jpeg_is_applied(
    tmp_path: Path, inks: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    buffer = io.BytesIO()
    profile = cmyk_profile()
    Image.new("CMYK", (16, 16), inks).save(buffer, "JPEG", quality=100, icc_profile=profile)
    content = buffer.getvalue()
    (tmp_path / "picture.jpg").write_bytes(content)
    for pixels in (
        as_pixels(content),
        decode_image(content, "x"),
        to_numpy(load_image(tmp_path / "picture.jpg")),
    ):
        assert np.abs(pixels.astype(int) - expected).max() <= 8
    jpeg, _, note = as_jpeg(content)
    assert note is None
    assert b"ICC_PROFILE" not in jpeg


def behind_metadata(content: bytes, size: int) -> bytes:
    """A JPEG with so many bytes of metadata before all else."""
    blocks = [min(size - start, 65_000) for start in range(0, size, 65_000)]
    segments = [b"\xff\xed" + struct.pack(">H", block + 2) + bytes(block) for block in blocks]
    return b"".join([content[:2], *segments, content[2:]])


@pytest.mark.parametrize("size", [0, 20_000, 200_000])
def test_a_profile_behind_any_metadata_is_applied(size: int) -> None:
    content = behind_metadata(file_of("JPEG", icc_profile=exchanged(), quality=100), size)
    plain = behind_metadata(file_of("JPEG", quality=100), size)
    assert may_have_profile(content)
    assert not may_have_profile(plain)
    expected = decode_image(plain, "x")[..., [1, 0, 2]].astype(int)
    assert np.abs(decode_image(content, "x") - expected).max() <= 3
    assert without_profile(content) == plain


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_profiles_that_are_ignored_are_told(kind: str) -> None:
    unreadable = "whose colour profile cannot be read"
    for profile, note in ((b"none", unreadable), (SRGB[:200], unreadable), (exchanged(), None)):
        content = file_of(kind, icc_profile=profile)
        assert may_have_profile(content)
        assert ignored_profile(content) == as_jpeg(content).note == note
    plain = file_of(kind)
    assert not may_have_profile(plain)
    assert ignored_profile(plain) is as_jpeg(plain).note is None


def test_a_profile_of_which_a_part_is_missing_is_told() -> None:
    content = file_of("JPEG", icc_profile=bytes(100_000))  # in two segments
    first = content.index(b"ICC_PROFILE") - 4
    length = int.from_bytes(content[first + 2 : first + 4], "big")
    content = content[:first] + content[first + 2 + length :]
    assert ignored_profile(content) == "whose colour profile cannot be read"


def test_a_profile_of_other_channels_is_ignored() -> None:
    content = file_of("JPEG", "CMYK", icc_profile=exchanged())
    assert as_jpeg(content).note == "whose colour profile is for other channels"
    assert np.array_equal(as_pixels(content), as_pixels(file_of("JPEG", "CMYK")))
