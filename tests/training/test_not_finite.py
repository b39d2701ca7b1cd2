"""A loss that is not finite ends the run before the weights change, and the run can go on."""

import shutil
from pathlib import Path

import pytest
import torch

import training.module
from training.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


def test_the_pairs_are_named_and_another_folder_goes_on_with_a_lower_rate(
    tiny_folder: Path,
    shards: Path,
    tmp_path: Path,
    tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = Path("training/recipes/shapes-quickstart.yaml")
    first, second = tmp_path / "first", tmp_path / "second"
    line = [
        *tiny(recipe, tiny_folder, shards, first),
        "--data.cache_latents=false",
        "--held_out_edits.samples=0",
        "--model.optimizer.warmup_steps=0",
        "--model.optimizer.schedule=constant",
    ]
    original, calls = training.module.edit_loss, iter(range(1, 100))

    def third_is_nan(*positional, **named):
        return original(*positional, **named) * (torch.nan if next(calls) == 3 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(training.module, "edit_loss", third_is_nan)
        with pytest.raises(SystemExit) as ending:
            main([*line, "--trainer.max_steps=4"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert ending.value.code == 1
    assert said.startswith("error: the gradient of step 3 is nan, expected a finite one: look at")
    assert f"positions 8 to 11 ({shards}: 0000" in said
    assert "whose loss is not finite" in said
    assert said.endswith(f"--ckpt_path {first}/last.ckpt")
    saved = torch.load(first / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(weights.isfinite().all() for weights in saved["state_dict"].values())

    line += [f"--output={second}", f"--ckpt_path={first}/last.ckpt"]
    line += ["--model.optimizer.learning_rate=1e-6", "--model.optimizer.first_layer_factor=3"]
    main([*line, "--trainer.max_steps=3"])
    shutil.rmtree(first)
    main([*line, "--trainer.max_steps=4"])  # from its own checkpoint, by the same command
    went_on = torch.load(second / "last.ckpt", weights_only=True)
    assert went_on["global_step"] == 4
    assert went_on["PairData"] == {"position": 16}
    rates = [group["lr"] for group in went_on["optimizer_states"][0]["param_groups"]]
    assert rates == [1e-6, 3e-6]
    for name, weights in saved["state_dict"].items():
        if name.startswith("unet."):  # the average still follows the weights of before
            assert (went_on["state_dict"][name] - weights).abs().max() < 3e-5, name
