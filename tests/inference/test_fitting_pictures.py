"""One instruction for all pictures or one each; pictures that the default model cannot know."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from inference.__main__ import main
from inference.images import load_image, save_image
from inference.work.common import one_each
from inference.work.planned import plan


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.png" for name in ("one", "two")]
    for path in paths:
        save_image(path, torch.zeros(3, 64, 64))
    return list(map(str, paths))


def test_instructions_are_one_for_all_or_one_each(photos: list[str]) -> None:
    for given, expected in ((["a"], ["a", "a"]), (["a", "b"], ["a", "b"])):
        found = plan(photos, instruction=given, source=[], target=[], seeds=[0])
        assert [edit.instruction for edit in found] == expected
    assert one_each("source", ["a", "b", "c"], 3) == ["a", "b", "c"]


@pytest.mark.parametrize("form", ["list", "words"])
@pytest.mark.parametrize("texts", [["a", "b", "c"], ["a", "b", "c", "d"]])
def test_another_number_of_instructions_is_refused(
    photos: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    texts: list[str],
    form: str,
) -> None:
    given = [str(texts).replace("'", '"')] if form == "list" else texts
    line = ["edit", "--images", *photos, "--instruction", *given, "--output", str(tmp_path / "o")]
    assert main(line) == 1
    said = f"error: instruction has {len(texts)} texts; expected 1 or 2, one an image\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "o").exists()


def test_two_instructions_give_two_edits(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["edit", "--images", *photos, "--steps", "1", "--output", str(tmp_path / "o")]
    asked = '["make the background red", "make the background blue"]'
    assert main([*line, "--instruction", asked]) == 0
    one, two = (load_image(tmp_path / "o" / f"{name}.png") for name in ("one", "two"))
    assert not torch.equal(one, two)


def test_a_photo_is_refused_by_the_default_model_and_force_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (1200, 800), (90, 120, 60)).save(tmp_path / "photo.jpg")
    output = tmp_path / "out.png"
    line = ["edit", "--images", str(tmp_path / "photo.jpg"), "--instruction", "make it night"]
    line += ["--steps", "1", "--output", str(output)]
    assert main(line) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'photo.jpg'} is 1200x800, but the model ")
    assert "was made for drawings of 64 pixels" in said
    assert "--force" in said
    assert not output.exists()
    assert main([*line, "--force", "true"]) == 0
    assert load_image(output).shape == (3, 800, 1200)
