"""The commands of `python -m inference`, from files to files, and what they say of bad input."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inference.__main__ import main
from inference.attention import LostHook
from inference.backbone import Backbone, load_backbone
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.images import load_image, save_image
from inference.inversion.ddim import Direct
from inference.inversion.inverted import InversionRequest, Inverted
from inference.inversion.null_text import NullText


@pytest.fixture(scope="module")
def model(
    build_backbone: Callable[..., Backbone],
    save_folder: Callable[[Backbone, Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A random InstructPix2Pix folder."""
    folder = tmp_path_factory.mktemp("instruct-pix2pix")
    save_folder(build_backbone("v_prediction", in_channels=8), folder)
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
    return main(["edit", *map(str, args)])


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
        ({"--steps": "2000"}, "steps is 2000; expected 1 to 1000"),
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
    assert "expected a folder for several edits" in capsys.readouterr().err


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
    assert ended.stderr == "error: --text_scale is 'high'; expected a finite number or null\n"


# --- editors by prompts, inversions, captions ----------------------------------------------------


@pytest.fixture(scope="module")
def base(
    build_backbone: Callable[..., Backbone],
    save_folder: Callable[[Backbone, Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A random text-to-image folder."""
    folder = tmp_path_factory.mktemp("stable-diffusion")
    save_folder(build_backbone("v_prediction"), folder)
    return folder


TARGET = ["--target", "a red dog", "--steps", 2]
PROMPTS = ["--source", "a red cat", *TARGET]


@pytest.mark.parametrize(
    ("editor", "options"),
    [
        ("plug_and_play", [*TARGET, "--features", 0.5, "--negative_prompt", "ugly"]),
        ("sdedit", [*TARGET, "--strength", 0.5, "--seed", 3]),
        ("sdedit", [*PROMPTS, "--inversion", "ddim"]),
        ("prompt_to_prompt", [*PROMPTS, "--inversion", "direct", "--cross", "[0.0, 0.5]"]),
        (
            "prompt_to_prompt",
            [*PROMPTS, "--inversion=null_text", "--inversion.inner_steps", 1, "--weights.dog", 2],
        ),
    ],
)
def test_every_editor_is_a_command(
    base: Path, photos: list[Path], tmp_path: Path, editor: str, options: list[object]
) -> None:
    named = ["--editor", editor, "--model", base, "--output", tmp_path / "out"]
    assert call("--images", *photos, *named, *options) == 0
    for photo in photos:
        written = load_image(tmp_path / "out" / f"{photo.stem}.png")
        assert written.shape == load_image(photo).shape


def test_what_the_model_draws_is_edited_without_an_image(base: Path, tmp_path: Path) -> None:
    named = ["--editor", "prompt_to_prompt", "--model", base, "--output", tmp_path / "dog.png"]
    assert call(*named, *PROMPTS) == 0
    assert load_image(tmp_path / "dog.png").shape == (3, 32, 32)


def test_words_are_named_on_the_command_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--editor", "prompt_to_prompt", "--model", base]
    twins = ["--source", "a cat, a cat", "--target", "a cat, a red cat", "--steps", 2]
    drawn = {}
    for word in ("cat", "cat@2", "@13:16"):
        options = [f"--weights.{word}", 2, f"--cross_of.{word}", "[0, 0.5]"]
        blend = ["--blend.target", json.dumps([word]), "--blend.start", 0, "--blend.threshold", 0.9]
        path = tmp_path / "drawn.png"
        assert call(*named, *twins, *options, *blend, "--output", path) == 0
        drawn[word] = load_image(path)
    assert torch.equal(drawn["cat@2"], drawn["@13:16"])
    assert not torch.equal(drawn["cat@2"], drawn["cat"])
    assert call(*named, *twins, "--weights.cat@3", 2, "--output", path) == 1
    assert "has 'cat' 2 times, so there is no 'cat@3'" in capsys.readouterr().err


def test_an_inversion_is_made_once_and_used_for_edits(
    base: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "one.safetensors"
    line = ["--model", base, "--output", kept, "--source", "a red cat", "--steps", 2]
    line += ["--inversion", "direct", "--images", photos[0]]
    assert main(["invert", *map(str, line)]) == 0
    assert "drawn again at" in capsys.readouterr().out
    assert load_image(tmp_path / "one.drawn.png").shape == (3, 32, 32)
    named = ["--editor", "prompt_to_prompt", "--model", base, "--images", photos[0], *PROMPTS]
    saved = ["--inversion", "saved", "--inversion.path", kept]
    assert call(*named, *saved, "--output", tmp_path / "saved.png") == 0
    assert call(*named, "--inversion", "direct", "--output", tmp_path / "direct.png") == 0
    found, wanted = (load_image(tmp_path / f"{name}.png") for name in ("saved", "direct"))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.01)
    for change, sentence in (
        (["--steps", 3], "is an inversion of 2 steps; expected 3"),
        (["--source", "a dog"], "is an inversion with another prompt"),
        (["--images", photos[1]], "is an inversion with another image"),
    ):
        assert call(*named, *saved, "--output", tmp_path / "no.png", *change) == 1
        assert sentence in capsys.readouterr().err


def test_images_are_inverted_together_and_edited_together(
    base: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "twin.png"
    save_image(twin, torch.zeros(3, 32, 32))
    paths, rows = [*photos, twin], list[int]()
    common = ["--model", base, "--images", *paths, "--source", "a cat", "a dog", "a red car"]
    common += ["--steps", 2]
    kept = ["--output", tmp_path / "kept", "--inversion", "null_text", "--inner_steps", 1]
    with pytest.MonkeyPatch.context() as patch:
        invert = NullText.invert

        def counted(self: NullText, request: InversionRequest) -> Inverted:
            rows.append(len(request.images))
            return invert(self, request)

        patch.setattr(NullText, "invert", counted)
        assert main(["invert", *map(str, [*common, *kept])]) == 0
    assert sorted(rows) == [1, 2]  # those of one size together
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.out.splitlines()] == [
        str(tmp_path / "kept" / f"{path.stem}.safetensors") for path in paths
    ]
    assert "null-text: " in shown.err
    named = ["--editor", "prompt_to_prompt", "--target", "a red cat", *common]
    saved = ["--inversion", "saved", "--inversion.path", tmp_path / "kept"]
    assert call(*named, *saved, "--output", tmp_path / "saved") == 0
    anew = ["--inversion", "null_text", "--inversion.inner_steps", 1]
    assert call(*named, *anew, "--output", tmp_path / "anew") == 0
    for path in paths:
        found, wanted = (
            load_image(tmp_path / name / f"{path.stem}.png") for name in ("saved", "anew")
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_bad_choices_are_named(
    base: Path, model: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--model", base, "--images", *photos, "--source", "a cat", "--target", "a dog"]
    cases: list[tuple[list[object], int, str]] = [
        (["--editor", "photoshop"], 2, "editor is 'photoshop'; expected one of instruct, prompt"),
        (
            ["--editor", "prompt_to_prompt", "--inversion", "magic"],
            2,
            "inversion is 'magic'; expected one of ddim, null_text",
        ),
        (["--editor", "sdedit", "--cross", "[0, 1]"], 2, "cross"),
        (["--images", "caf\udce9.png"], 2, r"the argument 'caf\udce9.png' is not UTF-8 text"),
        (
            ["--editor", "sdedit", "--strength", 2],
            2,
            "strength is 2; expected a number from 0 to 1",
        ),
        (["--editor", "sdedit"], 1, "source is ['a cat'], which sdedit with these options does"),
        (["--editor", "plug_and_play"], 1, "source is ['a cat'], which plug_and_play with these"),
        (["--model", model], 1, "source is ['a cat'], which instruct with these options does not"),
        (
            ["--editor", "prompt_to_prompt", "--instruction", "make it red"],
            1,
            "instruction is ['make it red'], which prompt_to_prompt with these options does not",
        ),
        (
            ["--editor", "prompt_to_prompt", "--inversion", "ddim", "--seed", 0],
            1,
            "seed is 0, which prompt_to_prompt with these options does not look at",
        ),
        (["--editor", "prompt_to_prompt", "--mask", photos[0]], 1, "prompt_to_prompt has no mask"),
        (["--editor", "prompt_to_prompt", "--model", model], 1, "its UNet takes 8 input channels"),
        (["--editor", "prompt_to_prompt"], 1, "but inversion is None"),
        (["--editor", "sdedit", "--target", "a", "b", "c"], 1, "target has 3 texts; expected 1 or"),
        (
            ["--editor", "prompt_to_prompt", "--inversion", "ddim", "--weights.bird", 2],
            1,
            "'bird'",
        ),
    ]
    for options, code, sentence in cases:
        try:
            found = call(*usual, *options)
        except SystemExit as ended:  # jsonargparse's own
            found = int(str(ended.code))
        error = capsys.readouterr().err
        assert (found, sentence in error) == (code, True), error


def test_a_mask_is_a_picture(base: Path, photos: list[Path], tmp_path: Path) -> None:
    right = torch.full((3, 32, 32), -1.0)
    right[..., 16:] = 1
    save_image(tmp_path / "mask.png", right)
    line = ["--editor", "sdedit", "--model", base, "--images", photos[0], *TARGET]
    line += ["--mask", tmp_path / "mask.png", "--space", "pixel", "--output", tmp_path / "out.png"]
    assert call(*line) == 0
    found, given = load_image(tmp_path / "out.png"), load_image(photos[0])
    assert torch.equal(found[..., :16], given[..., :16])
    assert not torch.equal(found[..., 16:], given[..., 16:])


def test_a_recipe_may_name_the_editor_or_the_inversion(
    base: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("editor: sdedit\nstrength: 0.5\nsteps: 2\n")
    named = ["--model", base, "--images", photos[0], "--target", "a red dog"]
    line = [*named, "--output", tmp_path / "out.png"]
    assert call("--config", recipe, *line) == 0
    with pytest.raises(SystemExit):  # the option after the recipe counts, and knows no strength
        call("--config", recipe, "--editor", "plug_and_play", *line)
    assert "strength" in capsys.readouterr().err
    recipe.write_text("editor: photoshop\n")
    assert call(f"--config={recipe}", *line) == 2
    assert "editor is 'photoshop'; expected one of" in capsys.readouterr().err
    recipe.write_text("inversion: edit_friendly\nskip: 0.5\nsteps: 2\nsource: [a cat]\n")
    line = ["--model", base, "--images", photos[0], "--output", tmp_path / "one.safetensors"]
    assert main(["invert", "--config", str(recipe), *map(str, line)]) == 0


def test_lost_control_is_told_in_one_sentence(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lose(*_: object) -> None:
        raise LostHook("attention control was lost")

    monkeypatch.setattr(PromptToPrompt, "edit", lose)
    named = ["--editor", "prompt_to_prompt", "--model", base, "--output", tmp_path / "dog.png"]
    assert call(*named, *PROMPTS) == 1
    assert capsys.readouterr().err == "error: attention control was lost\n"


def test_captions_of_shapes_are_read_off_and_others_named(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    circle = Path(__file__).parents[2] / "docs/circle.png"
    assert main(["caption", "--images", str(circle), str(photos[0])]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "image": str(circle),
        "caption": "a large red circle in the middle on a white background",
    }
    assert f"{photos[0]}: it shows no clear scene" in shown.err
    assert main(["caption", "--images", str(photos[0])]) == 1
    assert "none of 1 images has a caption" in capsys.readouterr().err


def test_a_grid_is_a_picture_of_seeds_and_windows(base: Path, tmp_path: Path) -> None:
    line = ["grid", "--source", "a red cat", "--target", "a red dog", "--model", str(base)]
    line += ["--steps", "2", "--seeds", "0", "1", "--output", str(tmp_path / "grid.png")]
    assert main([*line, "--fractions", "0", "1.0", "--vary", "self_attention"]) == 0
    _, height, width = load_image(tmp_path / "grid.png").shape
    assert (width, height) == (495, 374)


def test_a_grid_inverts_its_image_once(
    base: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    invert = Direct.invert

    def counted(self: Direct, request: InversionRequest) -> Inverted:
        calls.append(1)
        return invert(self, request)

    monkeypatch.setattr(Direct, "invert", counted)
    line = ["grid", "--model", base, "--image", photos[0], *PROMPTS, "--inversion", "direct"]
    line += ["--fractions", 0, 0.5, 1.0, "--output", tmp_path / "grid.png"]
    assert main([str(word) for word in line]) == 0
    assert calls == [1]


def test_options_that_a_grid_would_not_look_at_are_named(
    photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["grid", "--source", "a red cat", "--target", "a red dog"]
    for options, sentence in (
        (["--cross", "[0, 0.5]"], "cross is (0.0, 0.5), but it is what varies"),
        (
            ["--vary", "self_attention", "--self_attention", "[0, 0.5]"],
            "self_attention is (0.0, 0.5), but it is what varies",
        ),
        (["--image", str(photos[0]), "--seeds", "1", "2"], "seeds is [1, 2], but an inverted"),
        (["--fractions", "[]"], "fractions is empty"),
    ):
        assert main([*line, *options]) == 1
        assert sentence in capsys.readouterr().err
