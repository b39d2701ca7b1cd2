"""Checkpoints are whole or not there; damage and full disks cost no more than the steps since."""

import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from pytorch_lightning.callbacks import Timer

import training.module
from training.__main__ import main
from training.running.checkpoints import damage, found, path_of

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


@pytest.fixture
def command(tiny_folder: Path, shards: Path, tmp_path: Path, tiny) -> list[str]:
    recipe = Path("training/recipes/shapes-quickstart.yaml")
    return [
        *tiny(recipe, tiny_folder, shards, tmp_path / "run"),
        "--data.cache_latents=false",
        "--model.optimizer.schedule=constant",
        "--held_out_edits.every=100",
        "--trainer.max_steps=4",
    ]


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, Callable[[], object]]], None]:
    """`in_step({3: act})`: acts in the middle of steps, counted from 1."""

    def plan(acts: dict[int, Callable[[], object]]) -> None:
        original = training.module.draw

        def acting(**named):
            acts.get(named["positions"][0] // 4 + 1, lambda: None)()
            return original(**named)

        monkeypatch.setattr(training.module, "draw", acting)

    return plan


def saved_step(run: Path) -> int:
    return int(torch.load(run / "last.ckpt", weights_only=True)["global_step"])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


def test_the_latest_and_the_best_are_kept(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*command, "--held_out_edits.every=1", "--held_out_edits.samples=1"])
    curve = pd.read_csv(run / "logs/version_0/metrics.csv").dropna(subset="held_out/loss")
    best = int(curve["step"][curve["held_out/loss"].idxmin()])
    assert torch.load(run / "best.ckpt", weights_only=True)["global_step"] == best
    assert set(found(run)) == {path_of(run, step) for step in {3, 4, best}}
    assert saved_step(run) == 4
    quarters = [f"held_out/loss_at_{start:03d}" for start in (0, 250, 500, 750)]
    means = curve[quarters].mean(axis=1)
    assert (means - curve["held_out/loss"]).abs().max() < 1e-6


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [flipped, cut])
def test_after_damage_the_checkpoint_before_is_used(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], harm
) -> None:
    run = tmp_path / "run"
    main(command)
    unbroken = weights(run)
    assert damage(path_of(run, 4)) is None
    harm(path_of(run, 4))
    (run / "run.json").write_text((run / "run.json").read_text().replace('step": 4', 'step": 0'))
    capsys.readouterr()
    main(command)
    assert "step-00000004.ckpt is damaged" in capsys.readouterr().err
    assert all(torch.equal(held, unbroken[name]) for name, held in weights(run).items())


def test_where_all_are_damaged_it_says_so(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "step-00000002.ckpt").write_bytes(b"PK")
    with pytest.raises(SystemExit) as ending:
        main(command)
    assert ending.value.code == 1
    assert "error: all checkpoints of " in capsys.readouterr().err


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], in_step
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    in_step(
        {  # a limit on the size of files ends a write as a full disk does
            2: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard)),
            3: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
        }
    )
    run = tmp_path / "run"
    main(command)
    said = capsys.readouterr().err
    reason = f"{path_of(run, 2)} cannot be written: File too large"
    assert f"warning: step 2 is not saved, {reason}; those before stay\n" in said
    assert said.count("cannot be written") == said.count("is not saved") == 1
    assert found(run) == [path_of(run, 4), path_of(run, 3)]
    assert not list(run.rglob("*.tmp"))


def test_a_run_does_not_end_without_a_checkpoint(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], in_step
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    in_step({4: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))})
    with pytest.raises(SystemExit) as ending:
        main(command)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert ending.value.code == 1
    reason = f"{path_of(tmp_path / 'run', 4)} cannot be written: File too large"
    assert f"error: step 4 is not saved, {reason}\n" in capsys.readouterr().err
    assert saved_step(tmp_path / "run") == 3


def test_a_run_out_of_time_ends_with_a_whole_step_and_saves_it(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    run = tmp_path / "run"
    accumulated = [*command, "--trainer.accumulate_grad_batches=2", "--checkpoints.every=100"]
    elapsed = iter([0, 0, 9, *[10] * 100])  # seconds: over in the first batch of the second step
    monkeypatch.setattr(Timer, "time_elapsed", lambda *stage: next(elapsed))
    main([*accumulated, "--trainer.max_time=00:00:00:10"])
    assert capsys.readouterr().out.startswith("2 of 4 steps done; the editor is in")
    saved = torch.load(run / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert saved["PairData"] == {"position": 16}
    main(accumulated)
    assert capsys.readouterr().out.startswith("4 steps done; the editor is in")
    main([*accumulated, f"--output={tmp_path / 'unbroken'}"])
    unbroken = weights(tmp_path / "unbroken")
    assert all(torch.equal(held, unbroken[name]) for name, held in weights(run).items())


def test_sigterm_saves_at_the_end_of_the_step(
    command: list[str], tmp_path: Path, in_step, own_signals
) -> None:
    in_step({2: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(SystemExit) as ending:
        main([*command, "--checkpoints.every=100"])
    assert ending.value.code == 143
    assert saved_step(tmp_path / "run") == 2
    assert not (tmp_path / "run" / "model").exists()


def test_slurm_is_asked_to_requeue(
    command: list[str],
    tmp_path: Path,
    in_step,
    own_signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "asked"}\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=":")
    job = {"JOB_ID": "50", "ARRAY_JOB_ID": "42", "ARRAY_TASK_ID": "7", "JOB_NAME": "emend"}
    place = {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NODELIST": "localhost"}
    for name, value in (job | place).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    in_step({2: lambda: signal.raise_signal(signal.SIGUSR1)})
    with pytest.raises(SystemExit) as ending:
        main([*command, "--checkpoints.every=100"])
    assert ending.value.code == 143
    assert (tmp_path / "asked").read_text() == "requeue 42_7\n"
    assert saved_step(tmp_path / "run") == 2
