"""A run that is asked to end saves at the end of its step, by a signal or by Ctrl-C."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

import training.module
from inference.locks import owned
from training.__main__ import main
from training.running.stopping import StopRequests

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
    "workers": (["--data.num_workers=2"], 1, 5, "TERM"),
    "ranks": (["--trainer.strategy=ddp", "--trainer.devices=2"], 2, 7, "TERM"),
    "interrupted": (["--data.num_workers=2"], 1, 5, "INT"),
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
            "stop_at": position,
            "stop_by": by,
        }
        for name, (more, ranks, position, by) in RUNS.items()
    ]
    return root, forked(plan)


def test_all_processes_end_with_the_code_of_the_signal(stopped) -> None:
    assert stopped[1] == [[143], [143, 143], [130]]


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


def test_a_second_interrupt_ends_at_once_unless_it_is_the_same_one(
    monkeypatch: pytest.MonkeyPatch, own_signals, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    if (child := os.fork()) == 0:
        requests = StopRequests()
        requests.listen()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # as torchrun passes it on
        os.write(1, f"asked {requests.agreed().name}".encode())
        signal.raise_signal(signal.SIGINT)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    said = capfd.readouterr()
    assert said.out == "asked INTERRUPT"
    assert "ending after this step; press Ctrl-C again" in said.err


def test_before_the_first_step_it_ends_with_a_word(
    tiny_folder: Path,
    shards: Path,
    tmp_path: Path,
    tiny,
    monkeypatch: pytest.MonkeyPatch,
    own_signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.module.EditorTraining, "setup", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ending:
        main(command(tiny(QUICK, tiny_folder, shards, tmp_path / "run")))
    assert ending.value.code == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert signal.getsignal(signal.SIGINT) == before


def test_two_runs_do_not_share_a_folder(
    tiny_folder: Path, shards: Path, tmp_path: Path, tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(tmp_path / "run"), pytest.raises(SystemExit) as ending:
        main(command(tiny(QUICK, tiny_folder, shards, tmp_path / "run")))
    assert ending.value.code == 1
    assert f"run is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".owner.lock"]
