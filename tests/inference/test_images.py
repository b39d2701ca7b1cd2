"""Files and arrays become tensors and come back; broken files are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference import images
from inference.images import from_numpy, load_image, save_image, to_numpy, to_pil


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def test_every_byte_survives_the_round_trip() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(to_numpy(from_numpy(every)), every)


def test_bytes_and_floats_agree(pixels: np.ndarray) -> None:
    floats = (pixels / 255).astype(np.float32)
    torch.testing.assert_close(from_numpy(floats), from_numpy(pixels), rtol=0, atol=1e-6)
    assert from_numpy(np.zeros((2, 2, 3), np.uint8)).min() == -1
    assert from_numpy(np.ones((2, 2, 3), np.float32)).max() == 1


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".webp"])
def test_files_round_trip(tmp_path: Path, suffix: str) -> None:
    image = from_numpy(np.full((12, 20, 3), 200, np.uint8))
    save_image(tmp_path / f"image{suffix}", image)
    loaded = load_image(tmp_path / f"image{suffix}")
    assert loaded.shape == (3, 12, 20)
    torch.testing.assert_close(loaded, image, rtol=0, atol=0.02)


def test_png_is_exact(tmp_path: Path, pixels: np.ndarray) -> None:
    save_image(tmp_path / "image.png", from_numpy(pixels))
    assert np.array_equal(to_numpy(load_image(tmp_path / "image.png")), pixels)


def test_camera_orientation_is_applied(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(to_numpy(load_image(tmp_path / "turned.png")), np.rot90(pixels, -1))


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png").min() == 1


def test_grey_and_palette_become_rgb(tmp_path: Path, pixels: np.ndarray) -> None:
    for mode in ("L", "P", "1"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{mode}.png")
        assert load_image(tmp_path / f"{mode}.png").shape == (3, 12, 20)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image file .*nowhere\.png"):
        load_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_file_is_named(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    to_pil(from_numpy(pixels.repeat(8, 0).repeat(8, 1))).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} (cannot be decoded|is not an image)"):
        load_image(path)


def test_other_formats_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.bmp")
    with pytest.raises(ValueError, match=r"image\.bmp is not an image; expected PNG, JPEG"):
        load_image(tmp_path / "image.bmp")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="has more than 8 bits a channel"):
        load_image(tmp_path / "deep.png")


def test_large_images_are_refused_before_they_are_decoded(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(pixels).save(tmp_path / "large.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 200)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"large\.png, 20x12 .*, has more than 200 pixels"):
        load_image(tmp_path / "large.png")


def test_only_known_suffixes_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image\.gif ends in '\.gif'; expected one of \.png"):
        save_image(tmp_path / "image.gif", torch.zeros(3, 4, 4))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 4\); expected \(H, W, 3\)"):
        from_numpy(np.zeros((3, 4, 4), np.uint8))
