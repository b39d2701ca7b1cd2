"""Digests: what changes a model folder changes its digest, and nothing else does."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference.backbone import Backbone
from inference.files import folder_digest, is_abandoned, own_suffix, written_atomically
from inference.saving import save_backbone


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
