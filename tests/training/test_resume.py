"""A run that was killed and resumed has the same weights, bit for bit, as one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import training.data.samples
import training.module
from tests.training.endings import assert_same_end
from training.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

STEPS = 8
UNET = Path("model/unet/diffusion_pytorch_model.safetensors")
RUN_RECIPE = "training/recipes/shapes.yaml"


def arguments(base: Path, shards: Path, output: Path, *more: str) -> list[str]:
    return [
        "fit",
        f"--config={RUN_RECIPE}",
        f"--output={output}",
        f"--model.base={base}",
        f"--data.shards={shards}",
        "--model.settings.steps=1",
        "--data.batch_size=4",
        "--data.held_out=0.3",
        f"--trainer.max_steps={STEPS}",
        "--trainer.accelerator=cpu",
        "--checkpoints.every=2",
        "--held_out_edits.every=3",
        *more,
    ]


class KilledError(Exception):
    """Stands for a power cut in the middle of a step."""


def main_killed_at(call: int, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command, with a power cut in the `call`-th loss, counted from 1."""
    original, calls = training.module.edit_loss, iter(range(1, call + 1))

    def dying(*positional, **named):
        if next(calls) == call:
            raise KilledError
        return original(*positional, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training.module, "edit_loss", dying)
        with pytest.raises(KilledError):
            main(command)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--data.cache_latents=false", "--data.framing.flip=true"),
        ("--trainer.accumulate_grad_batches=2", "--trainer.precision=bf16-mixed"),
        ("--model.lora.rank=2",),
        ("--model.optimizer.kind=adamw_8bit",),
    ],
    ids=["cached", "images", "accumulated-bf16", "adapters", "eight-bit"],
)
def test_killed_and_resumed_equals_unbroken(
    tiny_folder: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
) -> None:
    main(arguments(tiny_folder, shards, tmp_path / "unbroken", *more))
    killed = arguments(tiny_folder, shards, tmp_path / "killed", *more)
    main_killed_at(1, killed, monkeypatch)
    main_killed_at(6, killed, monkeypatch)
    main_killed_at(4, killed, monkeypatch)
    main(killed)
    assert_same_end(tmp_path / "unbroken", tmp_path / "killed")


def test_a_finished_run_whose_editor_is_gone_exports_again(
    tiny_folder: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = arguments(tiny_folder, shards, tmp_path / "run")
    main(command)
    exported = tmp_path / "run" / UNET
    before = exported.read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    monkeypatch.setattr(training.module, "edit_loss", None)
    monkeypatch.setattr(training.data.samples.Pairs, "cache", None)
    main(command)
    assert exported.read_bytes() == before


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "training", *command], env=environment)


def wait_for(path: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never appeared"
        time.sleep(0.02)


def arguments_for_kills(base: Path, shards: Path, output: Path, workers: int, batches: int):
    return arguments(
        base,
        shards,
        output,
        "--data.cache_latents=false",
        "--data.framing.flip=true",
        "--trainer.precision=32-true",
        "--held_out_edits.samples=0",
        f"--data.num_workers={workers}",
        f"--trainer.accumulate_grad_batches={batches}",
    )


def order_of(file: Path) -> list[list[int]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.timeout(1500)  # on a busy machine; ten seconds on an idle one
@pytest.mark.parametrize(
    ("workers", "batches", "kills"),
    [
        pytest.param(0, 1, 2),
        pytest.param(2, 3, 2),
        pytest.param(0, 1, 10, marks=pytest.mark.slow),
        pytest.param(0, 3, 10, marks=pytest.mark.slow),
        pytest.param(2, 1, 10, marks=pytest.mark.slow),
        pytest.param(2, 3, 10, marks=pytest.mark.slow),
    ],
)
def test_kill_9_at_random_steps_and_resume_equals_unbroken(
    tiny_folder: Path,
    shards: Path,
    tmp_path: Path,
    forked,
    workers: int,
    batches: int,
    kills: int,
) -> None:
    """The last of the kills comes while a checkpoint is written, the others within steps."""
    rng = random.Random(f"{workers} {batches} {kills}")
    steps = STEPS if kills < STEPS else 3 * STEPS
    a_step = 4 * batches
    places = [
        step * a_step + rng.randrange(a_step) for step in sorted(rng.sample(range(steps), kills))
    ]

    def run(name: str, **kill: int) -> dict:
        output = tmp_path / name
        line = arguments_for_kills(tiny_folder, shards, output, workers, batches)
        line.append(f"--trainer.max_steps={steps}")
        return {"arguments": line, "order": f"{output}.order", **kill}

    plan = [
        run("unbroken"),
        *(run("killed", kill_at=place) for place in places),
        run("killed", kill_at_save=1),
        run("killed"),
    ]
    endings = forked(plan)
    assert endings == [[0], *([[-signal.SIGKILL]] * (kills + 1)), [0]]
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    assert_same_end(tmp_path / "unbroken", tmp_path / "killed")
    unbroken, killed = (order_of(tmp_path / f"{name}.order") for name in ("unbroken", "killed"))
    assert all(batch in unbroken for batch in killed)
    latest = {batch[0]: batch for batch in killed}
    assert [latest[first] for first in sorted(latest)] == unbroken


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_and_resume_equals_unbroken(tiny_folder: Path, shards: Path, tmp_path: Path) -> None:
    more = ("--trainer.max_steps=30",)
    unbroken = arguments(tiny_folder, shards, tmp_path / "unbroken", *more)
    assert start(unbroken).wait() == 0
    killed = arguments(tiny_folder, shards, tmp_path / "killed", *more)
    process = start(killed)
    wait_for(tmp_path / "killed" / "last.ckpt")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    assert start(killed).wait() == 0
    assert_same_end(tmp_path / "unbroken", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_train_as_one(tiny_folder: Path, shards: Path, tmp_path: Path) -> None:
    # In bf16 the sums over two halves of a batch are rounded differently from one over the whole.
    one = arguments(tiny_folder, shards, tmp_path / "one", "--trainer.precision=32-true")
    two = arguments(tiny_folder, shards, tmp_path / "two", "--trainer.precision=32-true")
    assert start(one).wait() == 0
    assert start([*two, "--trainer.devices=2", "--trainer.strategy=ddp"]).wait() == 0
    # As a whole: Adam moves a weight by its full rate whatever the size of its gradient, so that
    # rounding moves one that has next to none.
    left, right = (
        torch.cat([weights.flatten() for _, weights in sorted(load_file(path).items())])
        for path in (tmp_path / "one" / UNET, tmp_path / "two" / UNET)
    )
    assert (left - right).norm() <= 1e-5 * left.norm()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_request_to_stop_saves_and_exits_with_143(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    endless = ("--trainer.max_steps=100000", "--checkpoints.every=100000")
    command = arguments(tiny_folder, shards, tmp_path / "run", *endless)
    process = start(command)
    wait_for(tmp_path / "run" / "held-out" / "step-000003.png")
    process.terminate()
    assert process.wait() == 143
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert saved["PairData"] == {"position": 4 * saved["global_step"]}
