"""What people write by habit, and what they get."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from inference.__main__ import main
from inference.commands.positionals import with_options
from inference.editors.editor import EditRequest
from inference.images import load_image, to_pil
from inference.work.library import load_editor

CIRCLE = "docs/circle.png"
FEW = ["--steps", "1"]


def edited(*words: object) -> int:
    return main(["edit", *map(str, words), *FEW])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pictures_and_an_instruction_need_no_option(tmp_path: Path) -> None:
    assert edited(CIRCLE, "make the circle green", "--output", tmp_path / "a.png") == 0
    given = ["--images", CIRCLE, "--instruction", "make the circle green"]
    assert edited(*given, "--output", tmp_path / "b.png") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_several_instructions_and_seeds_are_an_edit_each(tmp_path: Path) -> None:
    words = [CIRCLE, "make the circle green", "remove the circle", "--seeds", 0, 7]
    assert edited(*words, "--output", tmp_path) == 0
    assert names(tmp_path) == [f"circle-{n}-seed{seed}.png" for n in (1, 2) for seed in (0, 7)]
    one = tmp_path / "one.png"
    assert edited(CIRCLE, "remove the circle", "--seed", 7, "--output", one) == 0
    alone, among = load_image(one), load_image(tmp_path / "circle-2-seed7.png")
    torch.testing.assert_close(alone, among, rtol=0, atol=0.01)


def test_a_folder_is_all_its_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.png", "a.png"):
        (folder / name).write_bytes(Path(CIRCLE).read_bytes())
    (folder / "notes.txt").write_text("no picture")
    assert edited(folder, "make the circle green", "--output", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a.png", "b.png"]


def test_a_file_of_edits_says_all(tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(Path(CIRCLE).read_bytes())
    edits = tmp_path / "edits.jsonl"
    asked = [
        {"image": "c.png", "instruction": "make the circle green"},
        {"image": "c.png", "instruction": "remove the circle", "seed": 3},
    ]
    edits.write_text("\n".join(map(json.dumps, asked)))
    assert edited("--edits", edits, "--output", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["c-1.png", "c-2.png"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"image": "c.png"}', "line 1: there is neither an instruction nor a target"),
        ('{"image": 3, "instruction": "x"}', "line 1: image is 3; expected a text"),
        ('{"image": "c.png", "edit": "x"}', "line 1: there is no edit; expected some of"),
        ('{"image": "c.png", "instruction": "x", "seed": -1}', "line 1: seed is -1; expected"),
        ("[1]", "item 1"),
        ("", "holds no edit"),
    ],
)
def test_a_broken_file_of_edits_is_named(
    line: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = tmp_path / "edits.jsonl"
    edits.write_text(line)
    assert edited("--edits", edits) == 1
    assert sentence in capsys.readouterr().err


def test_scales_are_a_grid(tmp_path: Path) -> None:
    line = ["grid", "--editor", "instruct", "--image", CIRCLE, *FEW]
    line += ["--instruction", "make the circle green", "--text_scales", "2", "5"]
    out = tmp_path / "grid.png"
    assert main([*line, "--image_scales", "1", "1.5", "--output", str(out)]) == 0
    _, height, width = load_image(out).shape
    assert (width, height) == (495, 374)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["https://example.org/a.png", "x"], 1, "is a URL; download it and give the file"),
        (["README.md", "x"], 1, "README.md is not an image; expected PNG, JPEG or WebP"),
        (["tests", "x"], 1, "the folder tests has no picture; expected .png"),
        (["nowhere.png", "x"], 1, "there is no image file nowhere.png"),
        ([CIRCLE, "x", "--images", CIRCLE], 2, "'docs/circle.png' and --images: expected one of"),
        (["x", CIRCLE], 2, "expected pictures, then what to do with them; got x docs/circle.png"),
        ([CIRCLE, "x", "--seed", "1", "--seeds", "2"], 1, "expected one of the two"),
        ([CIRCLE, "x", "--edits", "a.jsonl"], 1, "which says all; expected no images"),
        ([CIRCLE, "a", "b", "--output", "a.png"], 1, "expected a folder for several edits"),
        ([CIRCLE], 1, "neither an instruction nor a target"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", *words]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_only_edit_has_words_without_options() -> None:
    assert with_options(["grid", "a.png", "x"]) == ["grid", "a.png", "x"]
    assert with_options(["edit", "--help"]) == ["edit", "--help"]


def test_the_library_takes_pil_images_and_a_name() -> None:
    editor = load_editor(steps=1, dtype="fp32")
    with Image.open(CIRCLE) as picture:
        request = EditRequest(image=picture, instruction="make the circle green")
    assert request.image is not None
    torch.testing.assert_close(request.image, load_image(CIRCLE))
    assert to_pil(editor.edit([request])[0]).size == (64, 64)
    with pytest.raises(ValueError, match="editor is 'magic'; expected one of instruct"):
        load_editor(editor="magic")


def test_short_names_of_dtypes_are_the_same_dtypes(tmp_path: Path) -> None:
    for dtype in ("bf16", "bfloat16"):
        out = tmp_path / f"{dtype}.png"
        assert edited(CIRCLE, "make the circle green", "--dtype", dtype, "--output", out) == 0
    assert (tmp_path / "bf16.png").read_bytes() == (tmp_path / "bfloat16.png").read_bytes()
