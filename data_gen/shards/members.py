"""What a shard may hold: the members of a pair, each checked before it is believed.

A pair is three regular files in a tar, ``<key>.input.jpg``, ``<key>.edited.jpg`` and
``<key>.json``. Names are held against an allow-list, sizes are looked at before bytes are read and
pixels before they are decoded. ``shards`` writes and reads whole pairs with this.
"""

import io
import math
import sys
import tarfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from data_gen.records import EditTriplet, ImageArray, ImagePair, Scores
from inference.outside import parse_object
from inference.pictures import FORMATS, header_fault, on_white, profile_fault

MEMBERS = ("edited.jpg", "input.jpg", "json")
MAX_MEMBER_BYTES = 64 * 2**20
MAX_PIXELS = 2**26
BLOCK = 512
HEAD = 2**14
"""Bytes of a picture in which its size stands, unless a camera put a large preview first."""
TAIL = 16
JPEG_START = b"\xff\xd8"
_LYING = (5, 6, 7, 8)
_THREE_CHANNELS = frozenset({"RGB", "YCbCr"})
_PROFILE = b"ICC_PROFILE\0"
_START_OF_SCAN = 0xDA
_FILL = 0xFF
_CHUNKS_OF_PROFILES = (b"iCCP", b"ICCP")
"""As PNG and WebP call them."""
SCORES = tuple(item.name for item in fields(Scores))
LATER_SCORES = tuple(item.name for item in fields(Scores) if item.default is None)
"""Those that not every data set has; an index may have been made before they were known."""
_TEXTS = tuple(item.name for item in fields(EditTriplet) if item.name != "id")
_DESCRIPTION = {item.name for item in fields(EditTriplet)} - {"id"} | {
    *("key", "group", "seed_index", "branch", "p", "guidance", "scores")
}


class ShardError(ValueError):
    """A shard or an index is damaged, or holds what it should not."""


def checked_name(member: tarfile.TarInfo, path: Path) -> tuple[str, str]:
    """Split a member's name into key and extension.

    Raises:
        ShardError: It is no regular file of that name, or is larger than 64 MiB.
    """
    key, _, extension = member.name.partition(".")
    regular = member.isreg() and not member.issparse()
    if not regular or extension not in MEMBERS or not key or "/" in key or not key.isprintable():
        raise ShardError(
            f"{path} holds {member.name!r}: expected regular files <key>.{{{','.join(MEMBERS)}}}"
        )
    if member.size > MAX_MEMBER_BYTES:
        raise ShardError(f"{path}: {member.name} has {member.size} bytes, at most 64 MiB expected")
    return key, extension


def require_end(path: Path) -> None:
    """Require a tar's end, two blocks of zeros: tar readers are content without it.

    Raises:
        ShardError: The tar is truncated.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 2 * BLOCK))
        if file.read() != bytes(2 * BLOCK):
            raise ShardError(f"{path} is truncated: its {size} bytes do not end as a tar does")


def encode_jpeg(image: ImageArray) -> bytes:
    """Encode (H, W, 3) uint8 as JPEG, quality 95, no chroma subsampling (4:4:4)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def decode_image(content: bytes, name: str) -> ImageArray:
    """Decode a JPEG to (H, W, 3) uint8, looking at its size first.

    A JPEG that a lenient decoder would fill up with grey is damaged.

    Raises:
        ShardError: It is no JPEG, is damaged, or is larger than 2^26 pixels.
    """
    import simplejpeg  # data sets in other layouts do without

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if width * height <= MAX_PIXELS:
            return _pixels(content, colours)
    except (ValueError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ShardError(f"{name} is no JPEG, or is damaged: {error}") from error
    raise ShardError(f"{name} has {width} x {height} pixels, too many")


def _pixels(content: bytes, colours: str) -> ImageArray:
    import simplejpeg

    is_rgb = colours in _THREE_CHANNELS
    if is_rgb and not may_have_profile(content):
        return np.asarray(simplejpeg.decode_jpeg(content))
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        if not is_rgb:
            return np.asarray(on_white(image))
        decoded = Image.fromarray(simplejpeg.decode_jpeg(content))
        decoded.info["icc_profile"] = image.info.get("icc_profile")
        return np.asarray(on_white(decoded))


def without_profile(content: bytes) -> bytes:
    """A JPEG without its ICC profile, its pixels untouched."""
    kept, place = [], 0
    for start, end in _segments(content):
        if content.startswith(_PROFILE, start + 4):
            kept.append(content[place:start])
            place = end
    return b"".join([*kept, content[place:]])


def may_have_profile(head: bytes) -> bool:
    """Whether a picture whose file begins like this may have an ICC profile; False is certain.

    Args:
        head: The first bytes of a JPEG, PNG or WebP file, or all of them. A JPEG's profile may lie
            behind other metadata, however large: where the header goes on, so may the profile.
    """
    if not head.startswith(JPEG_START):
        return any(chunk in head for chunk in _CHUNKS_OF_PROFILES)
    for start, _ in _segments(head):
        if head.startswith(_PROFILE, start + 4):
            return True
        if head[start + 1] == _START_OF_SCAN:
            return False
    return True


def ignored_profile(content: bytes) -> str | None:
    """Why the ICC profile of a picture's file is ignored, see `profile_fault`; None where not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return profile_fault(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return None  # whoever decodes it says what is wrong


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Where the segments of a JPEG's header begin and end; the last is the start of its scan."""
    place = len(JPEG_START)
    while place + 4 <= len(content) and content[place] == _FILL:
        if content[place + 1] == _FILL:
            place += 1
            continue
        end = place + 2 + (content[place + 2] << 8 | content[place + 3])
        yield place, end
        if content[place + 1] == _START_OF_SCAN:
            return
        place = end


def image_size(start: bytes) -> tuple[int, int] | None:
    """Width and height that the start of a JPEG, PNG or WebP file tells; None where it does not.

    None too where `header_fault` has something to say. They are those of the upright picture, where
    a camera noted a turn.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(start), formats=FORMATS) as image:
                if header_fault(image, most=MAX_PIXELS):
                    return None
                lies = image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
                return (image.height, image.width) if lies else image.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return None


def description(pair: ImagePair, provenance: Mapping[str, str]) -> dict[str, Any]:
    """A pair's JSON: every field in every pair, null where it is not known or not a number."""
    texts = {name: text or None for name, text in asdict(pair.triplet).items()}
    found = asdict(pair.scores) if pair.scores else dict.fromkeys(SCORES)
    return {
        "key": pair.key,
        "group": texts.pop("id"),
        **texts,
        "seed_index": pair.seed_index,
        "branch": pair.branch,
        "p": pair.p,
        "guidance": pair.guidance,
        "scores": {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in found.items()
        },
        "provenance": dict(provenance),
    }


def seems_whole(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a picture's file ends as its format does; one that does not may still be whole."""
    if head.startswith(b"\x89PNG"):
        return tail.endswith(b"IEND\xaeB`\x82")
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return tail.endswith(b"\xff\xd9")


def described(content: bytes, name: str) -> dict[str, Any]:
    """Parse a pair's JSON and check every field that a reader takes from it.

    Raises:
        ShardError: It is no JSON object, lacks a field, or a field is of another type.
    """
    found = described_texts(content, name, _TEXTS)
    if missing := _DESCRIPTION - set(found):
        raise ShardError(f"{name}: its JSON lacks {sorted(missing)}")
    for field in ("seed_index", "branch"):
        fits = type(found[field]) is int and 0 <= found[field] < 2**63
        _require(fits, name, field, found[field], "a whole number of at most 63 bits")
    for field in ("p", "guidance"):
        _require(_is_number(found[field]), name, field, found[field], "a number or null")
    scores = found["scores"]
    _require(isinstance(scores, dict), name, "scores", scores, "an object")
    for field, value in scores.items():
        _require(field in SCORES, name, "scores", field, f"names of {', '.join(SCORES)}")
        _require(_is_number(value), name, field, value, "a number or null")
    if missing := set(SCORES) - set(LATER_SCORES) - set(scores):
        raise ShardError(f"{name}: its JSON lacks the scores {sorted(missing)}")
    return found


def described_texts(content: bytes, name: str, texts: Sequence[str]) -> dict[str, Any]:
    """Parse a pair's JSON and check key, group and these texts, which may be null.

    Raises:
        ShardError: As `described`, of the other fields nothing.
    """
    try:
        found = parse_object(content, "it")
    except ValueError as error:
        raise ShardError(f"{name}: its JSON describes no pair: {error}") from error
    if missing := {"key", "group", *texts} - set(found):
        raise ShardError(f"{name}: its JSON lacks {sorted(missing)}")
    for field in ("key", "group"):
        _require(isinstance(found[field], str), name, field, found[field], "a text")
    for field in texts:
        _require(isinstance(found[field], str | None), name, field, found[field], "a text or null")
    return found


def _is_number(value: object) -> bool:
    """Whether it is null, or a finite number that fits 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        return False
    return value is None or abs(value) <= sys.float_info.max


def _require(fits: bool, name: str, field: str, value: object, expected: str) -> None:
    if not fits:
        said = repr(value)[:80]
        raise ShardError(f"{name}: its JSON has {field} {said}, expected {expected}")
