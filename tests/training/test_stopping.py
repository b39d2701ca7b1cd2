"""A run that is asked to end saves at the end of its step, whoever of its processes was asked."""

import signal
from pathlib import Path

import pytest
import torch

import training.module
from training.__main__ import main

QUICK = Path("training/recipes/shapes-quickstart.yaml")

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
    pytest.mark.timeout(900),  # on a busy machine; twenty seconds on an idle one
]


def command(recipe_line: list[str], *more: str) -> list[str]:
    return [
        *recipe_line,
        "--data.cache_latents=false",
        "--held_out_edits.samples=0",
        "--trainer.max_steps=100",
        "--checkpoints.every=100",
        *more,
    ]


RUNS = {  # the rank that is asked is the one whose batch holds the position
    "workers": (["--data.num_workers=2"], 1, 5),
    "ranks": (["--trainer.strategy=ddp", "--trainer.devices=2"], 2, 7),
}


@pytest.fixture(scope="module")
def stopped(tiny_folder: Path, shards: Path, tmp_path_factory, tiny, forked) -> tuple[Path, list]:
    """The folder of runs that were asked to end in their second step, and their exit codes."""
    root: Path = tmp_path_factory.mktemp("stopped")
    plan = [
        {
            "arguments": command(tiny(QUICK, tiny_folder, shards, root / name), *more),
            "order": str(root / f"{name}.order"),
            "ranks": ranks,
            "terminate_at": position,
        }
        for name, (more, ranks, position) in RUNS.items()
    ]
    return root, forked(plan)


def test_all_processes_end_with_143(stopped) -> None:
    assert stopped[1] == [[143], [143, 143]]


@pytest.mark.parametrize("name", RUNS)
def test_the_step_is_finished_and_saved(stopped, name: str) -> None:
    saved = torch.load(stopped[0] / name / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert saved["PairData"] == {"position": 8}
    assert not (stopped[0] / name / "model").exists()


def test_a_request_cuts_the_encoding_short(
    tiny_folder: Path,
    shards: Path,
    tmp_path: Path,
    tiny,
    monkeypatch: pytest.MonkeyPatch,
    own_signals,
) -> None:
    original, calls = training.module.EditorTraining.encode, []

    def asked_meanwhile(module, *images):
        calls.append(images)
        signal.raise_signal(signal.SIGTERM)
        return original(module, *images)

    monkeypatch.setattr(training.module.EditorTraining, "encode", asked_meanwhile)
    line = tiny(QUICK, tiny_folder, shards, tmp_path / "run")
    with pytest.raises(SystemExit) as ending:
        main(command(line, "--data.cache_latents=true"))
    assert ending.value.code == 143
    assert len(calls) == 1
    assert not (tmp_path / "run" / "last.ckpt").exists()
