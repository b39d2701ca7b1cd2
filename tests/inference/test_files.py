"""Digests: what changes a model folder changes its digest, and nothing else does."""

from pathlib import Path

import pytest

from inference.files import folder_digest, written_atomically


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
