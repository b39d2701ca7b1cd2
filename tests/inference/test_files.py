"""Files are written whole or not at all, and what changes a model folder changes its digest."""

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from data_gen.captions.config import CaptionKnobs
from data_gen.captions.stage import write_captions
from data_gen.files import staged
from data_gen.shards.cache import Cache, Fetch
from inference.backbone import Backbone
from inference.endpoints.journal import Journal, SharedJournal, read_journal
from inference.files import (
    folder_digest,
    is_abandoned,
    make_folder,
    own_suffix,
    replaced_folder,
    require_writable,
    written_atomically,
)
from inference.locks import owned
from inference.saving import save_backbone
from training.identity import record

MEMORY = Path("/dev/shm")  # noqa: S108


def model(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    return folder


def test_a_model_is_known_by_its_files_wherever_it_lies(tmp_path: Path) -> None:
    one, other = model(tmp_path / "one"), model(tmp_path / "other")
    (other / "README.md").write_text("words that no weight depends on")
    assert folder_digest(one) == folder_digest(other)
    (other / "unet" / "config.json").write_text("{ }")
    assert folder_digest(one) != folder_digest(other)


def test_a_renamed_file_makes_another_model(tmp_path: Path) -> None:
    one, other = model(tmp_path / "one"), model(tmp_path / "other")
    (other / "unet").rename(other / "vae")
    assert folder_digest(one) != folder_digest(other)


def test_a_name_on_a_hub_has_no_digest(tmp_path: Path) -> None:
    assert folder_digest(tmp_path / "owner" / "name") is None


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with written_atomically(path) as temporary:
            temporary.write_text("half of the n")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_machines_that_share_a_disk_have_temporary_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with written_atomically(tmp_path / "file") as one:
        one.write_text("one")
        monkeypatch.setattr(socket, "gethostname", lambda: "another")  # with the same process id
        with written_atomically(tmp_path / "file") as other:
            other.write_text("other")
        assert (tmp_path / "file").read_text() == "other"
    assert (tmp_path / "file").read_text() == "one"


def test_what_a_process_has_left_is_told_from_what_it_is_at(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    host, parent = socket.gethostname(), os.getppid()
    assert is_abandoned(tmp_path / f".file.{host}.{int(ended.stdout)}.tmp")
    assert is_abandoned(tmp_path / f".file.{own_suffix()}.tmp")  # of a former one of its number
    assert not is_abandoned(tmp_path / f".file.{host}.{parent}.tmp")
    assert not is_abandoned(tmp_path / f"unit.{host}.{parent}")
    foreign = tmp_path / ".file.another.1.tmp"
    assert is_abandoned(foreign)  # gone in the meantime
    foreign.touch()
    assert not is_abandoned(foreign)
    two_days_ago = foreign.stat().st_mtime - 2 * 24 * 3600
    os.utime(foreign, (two_days_ago, two_days_ago))
    assert is_abandoned(foreign)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_killed_process_that_nobody_took_note_of_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.read()  # it ends; the zombie stays until it is waited for
        while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
            pass
        assert is_abandoned(tmp_path / f".file.{socket.gethostname()}.{child.pid}.tmp")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_are_readable_to_whom_the_umask_says(
    tmp_path: Path, umask: int, mode: int, tiny_backbone: Backbone
) -> None:
    former = os.umask(umask)
    try:
        with written_atomically(tmp_path / "one.safetensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)
        save_backbone(tiny_backbone, tmp_path / "model")
    finally:
        os.umask(former)
    files = [tmp_path / "one.safetensors", *(tmp_path / "model").rglob("*.safetensors")]
    assert len(files) >= 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {mode}


def write(path: Path, text: str) -> None:
    with written_atomically(path) as temporary:
        temporary.write_text(text)


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/file").write_text("old")
    (tmp_path / "link").symlink_to("disk/file")
    (tmp_path / "chain").symlink_to("link")
    (tmp_path / "dangling").symlink_to("elsewhere/new")
    for name, target in {"chain": "disk/file", "dangling": "elsewhere/new"}.items():
        write(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text() == name
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["file"]


def test_a_linked_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk/model").mkdir(parents=True)
    (tmp_path / "disk/model/old").touch()
    (tmp_path / "link").symlink_to("disk/model")
    (tmp_path / "dangling").symlink_to("disk/new")
    for name in ("link", "dangling"):
        with replaced_folder(tmp_path / name) as folder:
            (folder / "new").touch()
        assert (tmp_path / name).is_symlink()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["model", "new"]


def test_a_folder_is_made_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("disk/new")
    make_folder(tmp_path / "link/inner")
    make_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk/new/inner").is_dir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path, sentence in {
        tmp_path / "file": "file is a file, or lies below one; expected a folder",
        tmp_path / "file/below": "file/below is a file, or lies below one; expected a folder",
        tmp_path / "loop": "loop is a file, or lies below one|loop cannot be made",
        Path("/proc/none/a"): "/proc/none/a cannot be made: No such file",
    }.items():
        with pytest.raises(OSError, match=sentence):
            make_folder(path)


def test_every_output_may_be_a_link_to_what_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("captions", "staged", "journal", "shared", "cache", "run"):
        Path(name).symlink_to(f"disk/{name}")
    for name in ("one.jsonl", "two.jsonl"):
        Path(name).symlink_to(f"elsewhere/{name}")
    knobs = CaptionKnobs(count=3)
    assert len(write_captions(knobs, Path("captions/captions.jsonl"))) == 3
    with staged(Path("staged"), "unit") as folder:
        (folder / "file").touch()
    for path in ("journal/journal.jsonl", "one.jsonl"):
        with Journal(Path(path)) as journal:
            journal.append({"a": 1})
        assert list(read_journal(Path(path))) == [{"a": 1}]
    for path in ("shared/journal.jsonl", "two.jsonl"):
        shared = SharedJournal(Path(path))
        with shared.alone():
            shared.append({"a": 1})
        shared.close()
        assert list(read_journal(Path(path))) == [{"a": 1}]
    fetch = Fetch(size=lambda: 1, fetch=lambda path: path.write_bytes(b"a") and None)
    assert Cache(folder=Path("cache"), limit=9).path("a", None, fetch).read_bytes() == b"a"
    with owned(Path("run")):
        record(Path("run"), {}, "base")
    assert all(path.is_symlink() for path in tmp_path.iterdir() if path.name[0] in "csjrot")


def test_a_folder_that_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    before = folder_digest(folder)

    def write() -> None:
        with replaced_folder(folder) as partial:
            (partial / "half").touch()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert folder_digest(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_what_killed_processes_left_of_a_folder_goes(tmp_path: Path) -> None:
    host = socket.gethostname()
    parent = tmp_path / f".model.{host}.{os.getppid()}.tmp"  # is at work
    for left in (f".model.{host}.4194305.tmp", f".model.{own_suffix()}.tmp", parent.name):
        (tmp_path / left).mkdir()
    with replaced_folder(tmp_path / "model"):
        pass
    assert sorted(tmp_path.iterdir()) == [parent, tmp_path / "model"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "out/a cannot be written: No space"),
        (SafetensorError("I/O error"), "out/a cannot be written: I/O error"),
        (FileNotFoundError(errno.ENOENT, "No such file", "in.png"), "in.png"),
    ],
)
def test_what_cannot_be_written_is_named_and_other_errors_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=sentence) as found, written_atomically(Path("out/a")):
        raise error
    assert found.value.errno == getattr(error, "errno", None)


def test_a_name_may_be_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    write(tmp_path / ("é" * 125 + ".png"), "content")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["content"]


@pytest.mark.skipif(not MEMORY.is_dir(), reason="needs a second disk")
def test_a_unit_goes_to_the_disk_that_a_folder_links_to(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as disk:
        (tmp_path / "shards").symlink_to(disk)
        with staged(tmp_path, "unit") as folder:
            (folder / "shards").mkdir()
            (folder / "shards/a.tar").write_text("pairs")
        assert (Path(disk) / "a.tar").read_text() == "pairs"


def test_an_output_that_cannot_be_written_is_found_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "away").symlink_to("nowhere/at/all")
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in {
        tmp_path: "is a folder; expected a file",
        tmp_path / "pipe": "pipe is a device or a pipe",
        Path(os.devnull): "null is a device or a pipe",
        tmp_path / "loop": "leads back to itself",
        tmp_path / "file/a.png": "file is not a folder",
        tmp_path / "file/new/a.png": "file is not a folder",
        tmp_path / ("x" * 256): "File name too long",
        Path("/proc/none/a.png"): "/proc/none cannot be written",
    }.items():
        with pytest.raises(OSError, match=sentence):
            require_writable(path)
    for path in (tmp_path / "file", tmp_path / "new/er/a.png", tmp_path / "away"):
        require_writable(path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loop", "away", "pipe"}


def test_a_file_that_is_read_only_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    with pytest.raises(PermissionError, match="a cannot be written: it is read-only"):
        require_writable(tmp_path / "a")
    require_writable(tmp_path / "b")
