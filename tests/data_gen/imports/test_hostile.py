"""Hostile things to import: pictures, texts, paths, listings. Each is refused and counted with its
reason, the pair beside it comes through, and nothing of it reaches a shard or ends a run.
"""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data_gen import __main__
from data_gen.records import ImagePair
from data_gen.shards import ShardIndex, read_members
from data_gen.shards.members import encode_jpeg
from data_gen.survey.verify import inspect

SIDE = 24


def pixels(number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = encode_jpeg(pixels(1))
OTHER = encode_jpeg(pixels(2))
RGB = Image.fromarray(pixels(3))
PNG = saved(RGB, "PNG")
FRAMES = [Image.fromarray(pixels(number)) for number in (4, 5)]


def animated(kind: str) -> bytes:
    return saved(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], duration=100)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_of(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    return PNG[:8] + png_chunk(b"IHDR", header) + rows + png_chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    place = GOOD.index(b"\xff\xc0") + 5
    return GOOD[:place] + struct.pack(">HH", height, width) + GOOD[place + 4 :]


def png_with_a_text_bomb() -> bytes:
    bomb = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20))
    return PNG[:33] + png_chunk(b"zTXt", bomb) + PNG[33:]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.jpg", GOOD)
    return buffer.getvalue()


class Bomb:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/emend-was-unpickled",)


PICKLED = pickle.dumps(Bomb())
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
NOT = "a picture is no PNG, JPEG or WebP"
DAMAGED = "a picture cannot be decoded; it may be truncated"
LARGE = "a picture has more than 67,108,864 pixels"

BAD_PICTURES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "a picture is empty"),
    "text": (b"not a picture", NOT),
    "pickle": (PICKLED, NOT),
    "zip": (zipped(), NOT),
    "svg": (SVG, NOT),
    "html": (b"<html><img src=x onerror=alert(1)></html>", NOT),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NOT),
    "gif": (saved(RGB, "GIF"), NOT),
    "animated gif": (animated("GIF"), NOT),
    "bmp": (saved(RGB, "BMP"), NOT),
    "tiff": (saved(RGB, "TIFF"), NOT),
    "animated webp": (animated("WEBP"), "a picture is animated"),
    "animated png": (animated("PNG"), "a picture is animated"),
    "16-bit png": (
        saved(Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)), "PNG"),
        "a picture has more than 8 bits a channel",
    ),
    "png of 60,000 x 60,000": (png_of(60_000, 60_000), LARGE),
    "png of 9,000 x 9,000": (png_of(9_000, 9_000), LARGE),
    "png of 2^31 - 1": (png_of(2**31 - 1, 2**31 - 1), LARGE),
    "png of 0 x 0": (png_of(0, 0), NOT),
    "jpeg of 65,500 x 65,500": (jpeg_of(65_500, 65_500), LARGE),
    "truncated jpeg": (GOOD[: len(GOOD) // 2], DAMAGED),
    "jpeg header alone": (GOOD[:20], NOT),
    "truncated png": (PNG[: len(PNG) // 2], DAMAGED),
    "png with a wrong checksum": (PNG[:60] + b"\0\0\0\0" + PNG[64:], DAMAGED),
    "truncated webp": (saved(RGB, "WEBP", lossless=True)[:200], DAMAGED),
    "png with a text bomb": (png_with_a_text_bomb(), DAMAGED),
    "65 MiB": (GOOD + bytes(65 * 2**20), "a file has more than 64 MiB"),
    "another aspect": (encode_jpeg(pixels()[: SIDE // 2]), "its pictures differ in aspect ratio"),
    "the same picture": (OTHER, "its pictures are equal"),
}


def jpeg_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(RGB, "JPEG", exif=exif, quality=100, subsampling=0)


def png_with_a_comment() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "<script>alert(1)</script>")
    return saved(RGB, "PNG", pnginfo=text)


ODD_PICTURES: dict[str, bytes] = {
    "cmyk jpeg": saved(RGB.convert("CMYK"), "JPEG"),
    "grey jpeg": saved(RGB.convert("L"), "JPEG"),
    "palette png": saved(RGB.convert("P"), "PNG"),
    "palette png with transparency": saved(RGB.convert("P"), "PNG", transparency=3),
    "1-bit png": saved(RGB.convert("1"), "PNG"),
    "rgba png": saved(RGB.convert("RGBA"), "PNG"),
    "grey png with alpha": saved(RGB.convert("LA"), "PNG"),
    "turned jpeg": jpeg_turned(),
    "two pictures in a jpeg": saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]),
    "png with a comment": png_with_a_comment(),
    "progressive jpeg": saved(RGB, "JPEG", progressive=True),
    "webp": saved(RGB, "WEBP"),
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of an import: the place of each refused pair to its reason, and the set."""

    reasons: dict[str, str]
    root: Path

    def pair(self, instruction: str) -> tuple[ImagePair, bytes]:
        """A pair that came through, and its source picture's bytes."""
        index = ShardIndex(self.root)
        (found,) = [
            i for i in range(len(index)) if index.read(i).triplet.instruction == instruction
        ]
        return index.read(found), read_members(self.root, index[found])["input.jpg"]


def imported(layout: str, source: Path, out: Path) -> Imported:
    """Import, and require that the set is sound and that the good pair is in it."""
    line = ["import", "--layout", layout, "--source", str(source), "--output", str(out)]
    assert __main__.main(line) == 0
    refused = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert inspect(out, swaps=False).faults == []
    assert not Path("/tmp/emend-was-unpickled").exists()  # noqa: S108
    found = Imported(reasons={one["where"]: one["reason"] for one in refused}, root=out)
    assert found.pair("make it good")
    return found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """One import of all pictures, each with a good one for its edited picture; the last is good."""
    root = tmp_path_factory.mktemp("pictures")
    contents = [content for content, _ in BAD_PICTURES.values()] + list(ODD_PICTURES.values())
    names = [*(BAD_PICTURES), *(ODD_PICTURES), "make it good"]
    (root / "other.jpg").write_bytes(OTHER)
    lines = []
    for number, (name, content) in enumerate(zip(names, [*contents, GOOD], strict=True)):
        (root / f"{number}.png").write_bytes(content)
        lines.append(line(source=f"{number}.png", instruction=name))
    (root / "x.jsonl").write_bytes(b"\n".join(lines))
    return imported("jsonl", root / "x.jsonl", root / "out")


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(name: str, pictures: Imported) -> None:
    where = f"line {1 + list(BAD_PICTURES).index(name)}"
    assert pictures.reasons[where] == BAD_PICTURES[name][1]


@pytest.mark.parametrize("name", ODD_PICTURES)
def test_odd_pictures_come_out_plain(name: str, pictures: Imported) -> None:
    pair, content = pictures.pair(name)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIDE, SIDE))
        assert image.getexif().get(0x0112, 1) == 1
    if name == "turned jpeg":
        upright = np.rot90(pixels(3), -1).astype(int)
        assert np.abs(pair.source - upright).mean() < 6


def test_no_bad_picture_is_in_the_set(pictures: Imported) -> None:
    assert len(pictures.reasons) == len(BAD_PICTURES)
    assert len(ShardIndex(pictures.root)) == len(ODD_PICTURES) + 1


def line(**changes: Any) -> bytes:
    row = {"source": "good.jpg", "target": "other.jpg", "instruction": "bad"} | changes
    return json.dumps({key: value for key, value in row.items() if value != "-"}).encode()


OUTSIDE = "a path leads out of the data set"
MISSING = "a file is not there"
BAD_LINES: dict[str, tuple[bytes, str]] = {
    "no json": (b"{oops", "a line is no JSON object"),
    "a list": (b"[1, 2]", "a line is no JSON object"),
    "not utf-8": (b'{"instruction": "\xff\xfe"}', "a line is no JSON object"),
    "nested too deep": (b"[" * 100_000, "a line is no JSON object"),
    "a torn line": (line()[:-9], "a line is no JSON object"),
    "no instruction": (line(instruction="-"), "its instruction is empty"),
    "an empty instruction": (line(instruction=""), "its instruction is empty"),
    "white space": (line(instruction=" \n\t "), "its instruction is empty"),
    "null": (line(instruction=None), "its instruction is empty"),
    "a number": (line(instruction=7), "its instruction is no text"),
    "a nested object": (line(instruction={"a": 1}), "its instruction is no text"),
    "a null byte": (line(instruction="a\0b"), "its instruction has control characters"),
    "an escape": (line(instruction="\x1b[31mred"), "its instruction has control characters"),
    "half a surrogate": (line(instruction="a \ud800"), "its instruction has control characters"),
    "markup": (line(instruction="<b>x</b>"), "its instruction has markup"),
    "a script": (line(instruction="<script>x</script>"), "its instruction has markup"),
    "a markdown link": (line(instruction="[x](y)"), "its instruction has markup"),
    "a link": (line(instruction="see http://x.example"), "its instruction has a link"),
    "a novel": (line(instruction="x" * 2001), "its instruction is longer than 2000 characters"),
    "a caption with markup": (line(caption="<i>x</i>"), "its caption has markup"),
    "an empty edit": (line(caption="a", edited_caption="a"), "its captions are equal"),
    "an edit of a mark": (line(caption="a cat", edited_caption="A cat."), "its captions are equal"),
    "a heap of other fields": (
        line(heap="x" * 2**17),
        "its other fields have more than 65536 characters",
    ),
    "no picture": (line(source="-"), "a picture's path is no text"),
    "a path that is a number": (line(target=3), "a picture's path is no text"),
    "a path up": (line(source="../secret.jpg"), OUTSIDE),
    "a path up and down": (line(source="a/../../in/../secret.jpg"), OUTSIDE),
    "an absolute path": (line(source="/etc/passwd"), OUTSIDE),
    "a link out": (line(source="link.jpg"), OUTSIDE),
    "a folder": (line(source="."), MISSING),
    "a device by a link": (line(source="zero.jpg"), OUTSIDE),
    "a pipe": (line(source="fifo.jpg"), MISSING),
    "a file that is not there": (line(source="none.jpg"), MISSING),
    "a url": (line(source="http://127.0.0.1:9/x.jpg"), MISSING),
    "a command": (line(source="pipe:cat good.jpg"), MISSING),
    "a null byte in a path": (line(source="a\0.jpg"), "a file cannot be read"),
    "a path too long": (line(source="x" * 5000), "a file cannot be read"),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """One import of all lines; the last is good."""
    root = tmp_path_factory.mktemp("lines")
    (root / "in").mkdir()
    (root / "in/good.jpg").write_bytes(GOOD)
    (root / "in/other.jpg").write_bytes(OTHER)
    (root / "secret.jpg").write_bytes(encode_jpeg(pixels(9)))
    (root / "in/link.jpg").symlink_to(root / "secret.jpg")
    (root / "in/zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(root / "in/fifo.jpg")
    bad = [content for content, _ in BAD_LINES.values()]
    (root / "in/x.jsonl").write_bytes(b"\n".join([*bad, line(instruction="make it good")]))
    return imported("jsonl", root / "in/x.jsonl", root / "out")


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines(name: str, lines: Imported) -> None:
    where = f"line {1 + list(BAD_LINES).index(name)}"
    assert lines.reasons[where] == BAD_LINES[name][1]


def test_no_bad_line_is_in_the_set(lines: Imported) -> None:
    assert (len(lines.reasons), len(ShardIndex(lines.root))) == (len(BAD_LINES), 1)


PROMPT = {"input": "a cat", "edit": "bad", "output": "a dog"}
SCORES = {"clip_sim_0": 0.2, "clip_sim_1": 0.2, "clip_sim_dir": 0.2, "clip_sim_image": 0.8}
NO_FOLDER = "seeds.json lists what is no folder with seeds"


def metadata(**changes: Any) -> str:
    return json.dumps({"seed": 7, "p2p_threshold": 0.5, "cfg_scale": 8.0, **SCORES, **changes})


BAD = "in its own folder"
"""Stands for the folder of the case itself, which holds all that a good one does."""
BAD_SEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "a folder up": ({"entry": ["../bad", ["7"]]}, OUTSIDE),
    "an absolute folder": ({"entry": ["/etc", ["7"]]}, OUTSIDE),
    "a folder by a link": ({"entry": ["link", ["7"]]}, OUTSIDE),
    "a seed that is a path": ({"entry": [BAD, ["../good/1"]]}, NO_FOLDER),
    "a negative seed": ({"entry": [BAD, [-7]]}, NO_FOLDER),
    "a seed with a point": ({"entry": [BAD, [7.5]]}, NO_FOLDER),
    "a null seed": ({"entry": [BAD, [None]]}, NO_FOLDER),
    "a seed in other digits": ({"entry": [BAD, ["\u0667"]]}, NO_FOLDER),
    "a seed of 100 digits": ({"entry": [BAD, ["9" * 100]]}, "a seed has more than 63 bits"),
    "no seeds": ({"entry": [BAD, "7"]}, NO_FOLDER),
    "a folder that is a number": ({"entry": [3, ["7"]]}, NO_FOLDER),
    "no such folder": ({"entry": ["none", ["7"]]}, MISSING),
    "no such seed": ({"entry": [BAD, ["8"]]}, MISSING),
    "the same twice": ({"entry": ["good", ["1"]]}, "is listed twice"),
    "no prompt": ({"prompt": None}, MISSING),
    "a torn prompt": ({"prompt": '{"edit": "x'}, "its prompt.json is damaged"),
    "a prompt that is a list": ({"prompt": "[1]"}, "its prompt.json is damaged"),
    "a prompt without an edit": (
        {"prompt": '{"input": "a", "output": "b"}'},
        "its prompt.json has no text 'edit'",
    ),
    "torn metadata": ({"metadata": '{"seed": 7'}, "its metadata.jsonl is damaged"),
    "a nan score": (
        {"metadata": metadata(clip_sim_dir=float("nan"))},
        "its clip_sim_dir is no number",
    ),
    "an infinite score": (
        {"metadata": metadata(clip_sim_image=float("inf"))},
        "its clip_sim_image is no number",
    ),
    "a score in words": ({"metadata": metadata(clip_sim_0="0.2")}, "its clip_sim_0 is no number"),
    "a p of 7": ({"metadata": metadata(p2p_threshold=7)}, "its p is not between 0 and 1"),
}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """One import of a folder with all of them; the first listed is good."""
    root = tmp_path_factory.mktemp("seeds") / "in"
    root.mkdir()
    (root / "link").symlink_to("/etc")
    listed: list[Any] = [["good", ["1"]]]
    cases = {"good": ({"prompt": json.dumps(PROMPT | {"edit": "make it good"})}, ""), **BAD_SEEDS}
    for name, (changes, _) in cases.items():
        folder = root / name
        folder.mkdir()
        for seed in ("1", "7"):
            (folder / f"{seed}_0.jpg").write_bytes(GOOD)
            (folder / f"{seed}_1.jpg").write_bytes(OTHER)
        prompt = changes.get("prompt", json.dumps(PROMPT))
        if prompt is not None:
            (folder / "prompt.json").write_text(prompt)
        (folder / "metadata.jsonl").write_text(changes.get("metadata", metadata()) + "\n")
        if name != "good":
            entry = changes.get("entry", [BAD, ["7"]])
            listed.append([name if entry[0] == BAD else entry[0], entry[1]])
    (root / "seeds.json").write_text(json.dumps([*listed, {"no": "pair"}, 7, []]))
    return imported("instruct-pix2pix", root, root.parent / "out")


@pytest.mark.parametrize("name", BAD_SEEDS)
def test_bad_seeds(name: str, seeds: Imported) -> None:
    changes, reason = BAD_SEEDS[name]
    folder, seed = changes.get("entry", [BAD, ["7"]])
    where = f"{name if folder == BAD else folder}/{seed[0] if isinstance(seed, list) else None}"
    assert seeds.reasons[where] == reason


def test_no_bad_seed_is_in_the_set(seeds: Imported) -> None:
    assert len(ShardIndex(seeds.root)) == 1
    assert seeds.reasons["None/None"] == NO_FOLDER
