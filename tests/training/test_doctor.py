"""`doctor` of training: all that a recipe lacks, at once, and nothing is built."""

import importlib.util
from pathlib import Path

import pytest

from emend.__main__ import main as emend
from training import doctor
from training.__main__ import main


def code_of(line: list[str]) -> int:
    """The exit code of a command line."""
    try:
        return emend(line)
    except SystemExit as ended:
        return int(str(ended.code))


def test_a_recipe_of_real_weights_tells_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    assert code_of(["doctor", "sd15-8gpu-paper"]) == 1
    told = capsys.readouterr()
    assert told.err.endswith("lacks model.base, data.shards, trainer.devices\n")
    assert "→ hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include" in told.out
    assert "→ emend data run --config paper-sd15\n" in told.out
    assert "8 GPUs; torch finds 0 here" in told.out


def test_a_recipe_that_can_begin_does_not(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["doctor", "--config", "shapes-quickstart", f"--output={tmp_path / 'run'}"]
    main([*line, f"--data.shards={shards}"])
    said = capsys.readouterr().out
    assert said.endswith("can begin\n")
    assert "✓ memory" in said
    assert not (tmp_path / "run").exists() or not [*(tmp_path / "run").iterdir()]


def test_data_sets_libraries_and_memory_are_looked_at(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    line = ["doctor", "train/finetune-magicbrush", f"--output={tmp_path / 'run'}"]
    line += ["--model.base=shapes/instruct-pix2pix", "--model.optimizer.kind=adamw_8bit"]
    line += ["--held_out_edits.clip=./none"]
    assert code_of(line) == 1
    lacks = "data.sets[0].path, model.optimizer.kind, held_out_edits.clip"
    assert capsys.readouterr().err.endswith(f"lacks {lacks}\n")


@pytest.mark.parametrize(
    ("devices", "said", "ok"),
    [
        (2, "2 GPUs; torch finds 2 here", True),
        ([0, 1, 2], "3 GPUs; torch finds 2 here", False),
        ("auto", "1 GPU; torch finds 2 here", True),
        (-1, "1 GPU; torch finds 2 here", True),
    ],
)
def test_gpus_are_counted(
    monkeypatch: pytest.MonkeyPatch, devices: object, said: str, ok: bool
) -> None:
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor.torch.cuda, "device_count", lambda: 2)
    trainer = {"accelerator": "gpu", "devices": devices, "num_nodes": 1}
    (check,) = doctor._devices(trainer)
    assert (check.said, check.ok) == (said, ok)


@pytest.mark.parametrize(
    ("lora", "strategy", "kind", "each"),
    [
        (None, "auto", "adamw", 20.0),
        (None, "auto", "adamw_8bit", 14.0),
        (None, "fsdp2", "adamw", 20.0 / 4),
        ({"rank": 4}, "auto", "adamw", 4.0),
    ],
)
def test_memory_of_the_unet_is_that_of_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, lora: object, strategy: str, kind: str, each: float
) -> None:
    monkeypatch.setattr(doctor, "parameters", lambda _, parts: 1e6 if "unet" in parts else 0.0)
    needed = []
    monkeypatch.setattr(doctor, "check_memory", lambda bytes_, *_, **__: needed.append(bytes_))
    model = {"base": "x", "lora": lora, "optimizer": {"kind": kind}}
    trainer = {"accelerator": "gpu", "strategy": strategy, "devices": 4, "num_nodes": 1}
    doctor._memory({"model": model, "trainer": trainer})
    assert needed == [each * 1e6]
