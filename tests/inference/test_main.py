"""`python -m inference edit` from files to files, and what it says about bad input."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline

from inference.__main__ import edit
from inference.backbone import Backbone, load_backbone
from inference.command_line import run
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.images import load_image, save_image


@pytest.fixture(scope="module")
def model(
    build_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A random InstructPix2Pix folder."""
    folder = tmp_path_factory.mktemp("instruct-pix2pix")
    backbone = build_backbone("v_prediction", in_channels=8)
    StableDiffusionInstructPix2PixPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        scheduler=backbone.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two images of different sizes."""
    torch.manual_seed(0)
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    save_image(paths[0], torch.rand(3, 32, 32) * 2 - 1)
    save_image(paths[1], torch.rand(3, 20, 40) * 2 - 1)
    return paths


def call(*args: object) -> int:
    return run({"edit": edit}, prog="python -m inference", args=["edit", *map(str, args)])


def test_several_images_at_once(
    model: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--model", model, "--instruction", "make it red", "--steps", 2, "--seed", 3]
    assert call("--images", *photos, "--output", out, *options) == 0
    assert capsys.readouterr().out == f"{out / 'one.png'}\n{out / 'two.png'}\n"
    editor = Instruct(backbone=load_backbone(model), steps=2)
    for photo in photos:
        image = load_image(photo)
        request = EditRequest(image=image, instruction="make it red", seed=3)
        written = load_image(out / f"{photo.stem}.png")
        assert written.shape == image.shape
        torch.testing.assert_close(written, editor.edit([request])[0], rtol=0, atol=0.01)


def test_one_image_to_a_named_file(model: Path, photos: list[Path], tmp_path: Path) -> None:
    options = ["--model", model, "--instruction", "make it red", "--steps", 1]
    assert call("--images", photos[0], "--output", tmp_path / "edited.jpg", *options) == 0
    assert load_image(tmp_path / "edited.jpg").shape == (3, 32, 32)


def test_bad_input_ends_in_one_sentence(
    model: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(photos[0].read_bytes()[:500])
    usual = {
        "--images": str(photos[0]),
        "--instruction": "make it red",
        "--model": str(model),
        "--output": str(tmp_path / "out"),
        "--steps": "1",
    }
    cases = [
        ({"--images": "nowhere.png"}, "there is no image file nowhere.png"),
        ({"--images": str(cut)}, f"{cut} cannot be decoded"),
        ({"--model": "nowhere"}, "there is no model folder nowhere"),
        ({"--instruction": ""}, "the instruction is empty"),
        ({"--instruction": "x " * 40}, "has 42 tokens"),
        ({"--steps": "0"}, "steps is 0; expected 1 to 1000"),
        ({"--output": str(tmp_path / "a.gif")}, "ends in '.gif'"),
        ({"--output": str(photos[0])}, "is one of the images"),
        ({"--output": str(photos[0].parent)}, "is one of the images"),
    ]
    for change, sentence in cases:
        assert call(*[part for option in (usual | change).items() for part in option]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert sentence in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_results_do_not_overwrite_each_other(
    model: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    namesake = tmp_path / "sub" / "one.jpg"
    namesake.parent.mkdir()
    save_image(namesake, torch.zeros(3, 8, 8))
    options = ["--model", model, "--instruction", "make it red"]
    assert call("--images", photos[0], namesake, "--output", tmp_path / "out", *options) == 1
    assert "2 images would be written to" in capsys.readouterr().err
    assert call("--images", *photos, "--output", tmp_path / "out.png", *options) == 1
    assert "expected a folder for several images" in capsys.readouterr().err


def test_the_command_itself(photos: list[Path]) -> None:
    """Through a process, once: the exit code and nothing but the sentence."""
    line = [sys.executable, "-m", "inference", "edit", "--images", str(photos[0])]
    ended = subprocess.run(
        [*line, "--instruction", "make it red", "--text_scale", "high"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: text_scale is 'high'; expected null or float\n"
