"""Options that there are not: what other tools call ours, and near spellings."""

import pytest

from data_gen.__main__ import main as data_gen
from inference.__main__ import main as inference
from inference.option_hints import meant
from training.__main__ import main as training

EDIT = ["edit", "--images", "a.png", "--instruction", "make it night"]


@pytest.mark.parametrize(
    ("main", "line", "hint"),
    [
        (inference, [*EDIT, "--num_inference_steps", "20"], "did you mean --steps?"),
        (inference, [*EDIT, "--guidance_scale=7.5"], "did you mean --text_scale?"),
        (inference, [*EDIT, "--image_guidance_scale", "1.5"], "did you mean --image_scale?"),
        (
            inference,
            ["edit", "--images", "a.png", "--prompt", "a cat"],
            "did you mean --instruction?",
        ),
        (inference, [*EDIT, "--scheduler", "euler"], "did you mean --sampler?"),
        (inference, [*EDIT, "--text-scale", "2"], "did you mean --text_scale?"),
        (inference, [*EDIT, "--outptu", "x"], "did you mean --output?"),
        (inference, [*EDIT, "--qqqq", "x"], "--help shows all options"),
        (
            inference,
            [*EDIT, "--editor=sdedit", "--cfg", "2"],
            "did you mean --guidance_scale?",
        ),
        (data_gen, ["run", "--guidance_scale", "5"], "did you mean --pairs.render.guidance_range?"),
        (data_gen, ["run", "--num_inference_steps", "5"], "did you mean --pairs.render.steps?"),
        (training, ["fit", "--learning_rate", "1e-4"], "--model.optimizer.learning_rate?"),
        (data_gen, ["run"], "--output is missing"),
        (training, ["fit"], "--output is missing"),
        (training, ["latents"], " is missing; --help says what it is"),
        (
            data_gen,
            ["run", "--config", "training/recipes/shapes.yaml"],
            "partition (a recipe of train fit has it)",
        ),
        (
            training,
            ["fit", "--config", "data_gen/recipes/shapes.yaml"],
            "(a recipe of data run has it)",
        ),
        (training, ["fit", "--lr", "1e-4"], "did you mean --model.optimizer.learning_rate?"),
        (training, ["fit", "--train_batch_size=4"], "did you mean --data.batch_size?"),
        (training, ["fit", "--max_train_steps=4"], "did you mean --trainer.max_steps?"),
    ],
)
def test_what_was_meant_is_said(main, line, hint, capsys) -> None:  # type: ignore[no-untyped-def]
    code = None
    try:
        code = main(line)
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert hint in error


def test_a_name_of_its_own_is_never_another_option() -> None:
    assert meant("steps", ["steps", "trainer.max_steps"]) == "steps"
    assert meant("zzz", ["steps"]) is None
