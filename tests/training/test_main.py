"""The command: every shipped recipe runs, ends in a stock folder, and bad input is one sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import (
    DiffusionPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from PIL import Image

import training.fit
from inference.backbone import load_backbone
from training.__main__ import main
from training.data.samples import Batch
from training.module import EditorTraining

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

QUICK = Path("training/recipes/shapes-quickstart.yaml")


@pytest.fixture
def arguments(tiny_folder: Path, shards: Path, tmp_path: Path, tiny) -> list[str]:
    return tiny(QUICK, tiny_folder, shards, tmp_path / "run")


def test_a_recipe_ends_as_a_stock_folder(recipe: Path, run_of: Callable[[Path], Path]) -> None:
    run = run_of(recipe)
    knobs = yaml.safe_load(recipe.read_text())["model"]
    folder = run / "model"

    stock = DiffusionPipeline.from_pretrained(folder)
    xl = (folder / "text_encoder_2").is_dir()
    kind = (
        StableDiffusionXLInstructPix2PixPipeline if xl else StableDiffusionInstructPix2PixPipeline
    )
    assert isinstance(stock, kind)
    assert stock.unet.config.in_channels == 8
    assert stock.scheduler.config.prediction_type == knobs["objective"]["prediction_type"]
    image = Image.fromarray(np.full((32, 32, 3), 128, dtype=np.uint8))
    size = {"height": 32, "width": 32} if xl else {}
    assert stock("red", image=image, num_inference_steps=2, **size).images[0].size == (32, 32)
    assert not list(folder.rglob("*.bin"))

    ours = load_backbone(folder)
    assert ours.settings.text_scale == knobs["settings"]["text_scale"]
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    average = checkpoint["state_dict"]["average.conv_in.weight"]
    assert torch.equal(ours.unet.conv_in.weight, average)
    assert average[:, 4:].any()
    assert not torch.equal(average, checkpoint["state_dict"]["unet.conv_in.weight"])
    assert not any("vae" in name or "text" in name for name in checkpoint["state_dict"])


def test_a_run_leaves_its_curve_its_recipe_and_its_pictures(
    arguments: list[str], tmp_path: Path
) -> None:
    main(arguments)
    logs = tmp_path / "run" / "logs" / "version_0"
    curve = pd.read_csv(logs / "metrics.csv")
    assert curve["train/loss"].notna().sum() == 2
    assert (curve["train/lr"].dropna() > 0).all()
    assert curve["held_out/l1"].notna().sum() == 1
    assert yaml.safe_load((logs / "config.yaml").read_text())["data"]["batch_size"] == 4
    with Image.open(tmp_path / "run" / "held-out" / "step-000002.png") as picture:
        assert picture.size == (256 + 3 * 128, 2 * 128)


def test_the_loss_of_a_step_is_that_of_all_its_batches(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses: list[float] = []
    original = EditorTraining.training_step

    def noting(self: EditorTraining, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(EditorTraining, "training_step", noting)
    main([*arguments, "--trainer.accumulate_grad_batches=3", "--data.held_out=0"])
    curve = pd.read_csv(tmp_path / "run" / "logs" / "version_0" / "metrics.csv")
    steps = np.array(losses).reshape(2, 3)
    np.testing.assert_allclose(curve["train/loss"].dropna(), steps.mean(axis=1), rtol=1e-5)
    # nothing is held out here, and that is said
    assert "note: data.held_out is 0, which holds out no pair" in capsys.readouterr().out
    assert not (tmp_path / "run" / "best.ckpt").exists()


def test_bf16_and_image_batches_train_as_well(arguments: list[str], tmp_path: Path) -> None:
    more = ["--trainer.precision=bf16-mixed", "--data.cache_latents=false"]
    main([*arguments, *more, "--data.framing.resolution=16", "--data.framing.enlarge_to=24"])
    weights = load_backbone(tmp_path / "run" / "model").unet.conv_in.weight
    assert weights.dtype == torch.float32
    assert weights.isfinite().all()


@pytest.mark.parametrize(("tf32", "precision"), [("false", "highest"), ("true", "high")])
def test_float32_is_multiplied_as_asked(arguments: list[str], tf32: str, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    main([*arguments, "--trainer.max_steps=1", f"--model.speed.tf32={tf32}"])
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    assert found == precision


def test_a_run_on_a_cpu_keeps_its_memory(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str | torch.device] = []
    monkeypatch.setattr(training.fit, "keep_memory", calls.append)
    main([*arguments, "--trainer.max_steps=1"])
    assert [str(device) for device in calls] == ["cpu"]


def test_an_editor_is_trained_further(arguments: list[str], tmp_path: Path) -> None:
    main(arguments)
    editor = tmp_path / "run" / "model"
    main([*arguments, f"--model.base={editor}", f"--output={tmp_path / 'second'}"])
    assert load_backbone(tmp_path / "second" / "model").unet.config.in_channels == 8


def test_a_finished_run_is_not_run_again(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*arguments, "--checkpoints.every=100"])
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    capsys.readouterr()
    main(arguments)
    assert capsys.readouterr().out.startswith("already done: 2 steps; the editor is in ")
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    main([*arguments, "--trainer.max_steps=3"])
    assert capsys.readouterr().out.startswith("3 steps done")


def test_a_folder_does_not_go_on_with_another_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments)
    said, ended = message([*arguments, "--model.objective.dropout=0.1"], capsys)
    assert "run holds a run with another model.objective.dropout: choose another output" in said
    assert ended == 1


def message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    said = capsys.readouterr().err.strip().splitlines()
    assert not any(line.startswith("Traceback") for line in said)
    return said[-1], int(ending.value.code)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "expected", "code"),
    [
        ("--data.shards=nowhere", "error: no index at nowhere/index.parquet", 1),
        ("--model.base=nowhere", "error: there is no model folder nowhere", 1),
        ("--model.base=tests", "error: tests is not a Stable-Diffusion-like", 1),
        ("--trainer.max_steps=-1", "error: trainer.max_steps is -1; expected a whole number", 2),
        ("--trainer.accumulate_grad_batches=-1", "accumulate_grad_batches is -1; expected", 2),
        ("--trainer.devices=-5", "trainer.devices is -5; expected a whole number from 1", 2),
        ("--trainer.devices=[0, 1]", "devices [0, 1] on accelerator 'cpu'", 1),
        ("--trainer.log_every_n_steps=0", "trainer.log_every_n_steps is 0; expected", 2),
        ("--trainer.num_nodes=0", "trainer.num_nodes is 0; expected a whole number", 2),
        ("--model.optimizer.learning_rate=-1", "optimizer.learning_rate is -1; expected", 2),
        ("--model.optimizer.clip_norm=-1", "optimizer.clip_norm is -1; expected", 2),
        ("--model.optimizer.betas=[0.9, 1]", "optimizer.betas is '1'; expected", 2),
        ("--model.settings.steps=0", "error: --model.settings.steps is 0; expected", 2),
        ("--model.objective={fokus: {}}", "there is no model.objective.fokus", 2),
        ("--trainer.precision=16-mixed", "trainer.precision is 16-mixed, expected 32-true or", 2),
        ("--trainer.precision=bf16-true", "trainer.precision is bf16-true, expected 32-true or", 2),
        ("--trainer.precision=64-true", "trainer.precision is 64-true, expected 32-true or", 2),
        ("--trainer.gradient_clip_val=1", "left out: model.optimizer.clip_norm clips", 2),
        ("--trainer.max_epochs=3", "trainer.max_epochs is 3, expected it left out: trainer.max", 2),
        ("--trainer.val_check_interval=10", "left out: held_out_edits says when and on what", 2),
        ("--trainer.use_distributed_sampler=true", "left out: the order of the samples is a", 2),
        ("--trainer.enable_checkpointing=true", "left out: checkpoints.every and", 2),
        ("--trainer.accelerator=tpu", "error: ", 1),
        ("--data.framing.flip=true", "error: data.cache_latents is true, but framing.flip", 1),
        (
            "--model.objective.dropout=2",
            "objective.dropout is 2; expected a number from 0 to 0.333",
            2,
        ),
        ("--model.objective.prediction_type=epsilon", "the base model predicts v_prediction", 1),
        ("--model.ema_decay=1", "model.ema_decay is 1; expected a number from 0 below 1", 2),
        ("--model.base=pyproject.toml", "python -m inference convert --source pyproject.toml", 1),
        ("--model.lora.rank=0", "--model.lora.rank is 0; expected a whole number from 1", 2),
        ("--model.lora.targets=[to_z]", "lora.targets are ['to_z']; no layer of the UNet", 1),
        ("--data.framing.resolution=30", "resolution is 30, expected a multiple of 4", 1),
        ("--model.optimizer.learning_rate=fast", "learning_rate", 2),
        ("--model.objective.weighting=some", "weighting", 2),
        ("--data.bogus=1", "bogus", 2),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    argument: str,
    expected: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, ended = message([*arguments, argument], capsys)
    assert expected in said
    assert ended == code


def test_an_unknown_recipe_key_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load(QUICK.read_text())
    recipe["model"]["lerning_rate"] = 1
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(recipe))
    said, ended = message(["fit", f"--config={broken}", *arguments[2:]], capsys)
    assert "lerning_rate" in said
    assert ended == 2


def test_a_checkpoint_of_another_model_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    weights = {"unet.conv_in.bias": torch.zeros(3)}
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2.6.6"}, folder / "last.ckpt")
    said, ended = message(arguments, capsys)
    assert "holds another model than that of `base`" in said
    assert ended == 1


def test_a_truncated_shard_is_named(
    arguments: list[str], own_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = own_shards / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    said, ended = message([*arguments, f"--data.shards={own_shards}"], capsys)
    assert "00001.tar is truncated" in said
    assert ended == 1
