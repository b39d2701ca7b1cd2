"""Hostile tars: verify names what is wrong with each and goes on, and none gets an index."""

import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_gen.shards import INDEX_FILE, scan_shard
from data_gen.shards.members import ShardError, encode_jpeg
from data_gen.survey.verify import inspect


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)


GOOD, OTHER = encode_jpeg(pixels(1)), encode_jpeg(pixels(2))


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(3)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A JPEG whose header says 65,500 x 65,500."""
    place = GOOD.index(b"\xff\xc0") + 5
    return GOOD[:place] + struct.pack(">HH", 65_500, 65_500) + GOOD[place + 4 :]


class Command:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/emend-was-unpickled",)


PICKLED = pickle.dumps(Command())
Member = tuple[str, bytes]
NAN = b'{"scores": {"image_image": NaN}}'
SOUND = json.dumps(
    {
        "key": "a",
        "group": "g",
        "caption": None,
        "instruction": "x",
        "edited_caption": None,
        "edit_type": None,
        "inverse_instruction": None,
        "seed_index": 0,
        "branch": 0,
        "p": None,
        "guidance": None,
        "provenance": {},
        "scores": dict.fromkeys(("image_image", "text_source", "text_edited", "directional")),
    }
).encode()
PAIR: list[Member] = [("a.input.jpg", GOOD), ("a.edited.jpg", OTHER), ("a.json", SOUND)]


def tar(*members: Member | tarfile.TarInfo, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:  # type: ignore[call-overload]
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                file.addfile(one)
            else:
                info = tarfile.TarInfo(one[0])
                info.size = len(one[1])
                file.addfile(info, io.BytesIO(one[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sparse() -> tarfile.TarInfo:
    info = tarfile.TarInfo("a.json")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.size": "9"}
    return info


def claims(size: int) -> bytes:
    """A tar whose one member claims a size that is not there."""
    info = tarfile.TarInfo("a.json")
    info.size = size
    return info.tobuf() + bytes(1024)


def with_member(name: str, content: bytes) -> bytes:
    return tar(*[(n, content if n == name else c) for n, c in PAIR])


BAD_TARS: dict[str, bytes] = {
    "a name with ..": tar(*PAIR, ("../b.json", b"{}")),
    "an absolute name": tar(*PAIR, ("/etc/b.json", b"{}")),
    "a name in a folder": tar(*PAIR, ("x/b.json", b"{}")),
    "a symbolic link": tar(*PAIR, special("b.json", tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link": tar(*PAIR, special("b.json", tarfile.LNKTYPE, "a.json")),
    "a device": tar(*PAIR, special("b.json", tarfile.CHRTYPE)),
    "a pipe": tar(*PAIR, special("b.json", tarfile.FIFOTYPE)),
    "a folder": tar(*PAIR, special("b.json", tarfile.DIRTYPE)),
    "a sparse file": tar(sparse(), *PAIR[:2]),
    "a pickle": tar(*PAIR, ("a.pkl", PICKLED)),
    "a pyd": tar(*PAIR, ("a.pyd", PICKLED)),
    "a torch file": tar(*PAIR, ("a.pth", PICKLED)),
    "an executable": tar(*PAIR, ("a.sh", b"rm -rf /")),
    "no extension": tar(*PAIR, ("a", b"x")),
    "no key": tar(*PAIR, (".json", b"{}")),
    "a bell in a name": tar(*PAIR, ("b\x07.json", b"{}")),
    "a member twice": tar(*PAIR, PAIR[2]),
    "a pair without its picture": tar(*PAIR[1:]),
    "a member of 65 MiB": tar(*PAIR, ("b.json", bytes(65 * 2**20))),
    "a size that is not there": claims(2**40),
    "a small size that is not there": claims(5000),
    "no tar": b"not a tar at all" * 100,
    "nothing": b"",
    "a compressed tar": tar(*PAIR, mode="w:gz"),
    "a cut tar": tar(*PAIR)[:-8000],
    "a nan score": with_member("a.json", NAN),
    "a json that is a list": with_member("a.json", b"[1]"),
    "a json nested too deep": with_member("a.json", b"[" * 100_000),
    "a json without fields": with_member("a.json", b"{}"),
    "a json in another encoding": with_member("a.json", b"\xff\xfe{}"),
    "another pair's json": with_member("a.json", SOUND.replace(b'"a"', b'"b"', 1)),
    "a png that says it is a jpeg": with_member("a.input.jpg", png()),
    "a bomb": with_member("a.input.jpg", bomb()),
    "a cut picture": with_member("a.edited.jpg", GOOD[:300]),
    "an empty picture": with_member("a.edited.jpg", b""),
}


FOUND_LATER = {"another pair's json", "a png that says it is a jpeg", "a bomb", "a cut picture"}
FOUND_LATER |= {"an empty picture"}  # an index is made of names and texts


@pytest.mark.parametrize("name", BAD_TARS)
def test_bad_tars(name: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    bad, good = tmp_path / "shards" / "bad.tar", tmp_path / "shards" / "good.tar"
    bad.write_bytes(BAD_TARS[name])
    good.write_bytes(tar(*[(member.replace("a.", "good."), content) for member, content in PAIR]))
    found = inspect(tmp_path, swaps=False)
    kinds = {fault.kind for fault in found.faults if fault.where.startswith("shards/bad.tar")}
    assert kinds & {"member", "duplicate", "description", "image"}, found.faults
    assert found.pairs >= 1  # the sound shard is looked through all the same
    if name not in FOUND_LATER:
        with pytest.raises(ShardError):
            scan_shard(bad, "bad.tar")
    assert not Path("/tmp/emend-was-unpickled").exists()  # noqa: S108


def test_a_key_in_two_shards(published: Path) -> None:
    one, other = sorted(published.glob("shards/*.tar"))
    other.write_bytes(one.read_bytes())
    kinds = {fault.kind for fault in inspect(published, swaps=False).faults}
    assert {"duplicate", "hash"} <= kinds
    assert (published / INDEX_FILE).is_file()
