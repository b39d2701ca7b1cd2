"""`scripts/bench/gpu.py` rehearses on a CPU, catches what is wrong and leaves what it found."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_gen.rendering import pairs

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
CUT = "ddim, fp32;training step, fp32;killed and resumed run;product of"
HIDDEN = ("bitsandbytes", "simplejpeg", "webdataset", "datasets", "open_clip")


@pytest.fixture(name="gpu")
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it begins no GPU work when it is imported."""
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    return gpu


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def test_a_cut_of_it_runs_and_is_right(gpu, tmp_path: Path, capsys) -> None:
    assert gpu.main(["--rehearse", "--output", str(tmp_path), "--only", CUT]) == 0
    rows = {
        name: row
        for part in gpu.PARTS
        for name, row in rows_of(tmp_path / f"gpu-{part}.json").items()
    }
    assert {row["status"] for row in rows.values()} == {"right"}
    assert rows["a killed and resumed run"]["value"] == 0
    assert rows["bf16 product of matrices"]["value"] > 0
    printed = capsys.readouterr().out
    assert all(f"| {name} | right |" in printed for name in rows)


def sign(original):
    return lambda uncond, cond, scale: original(cond, uncond, scale)


def stale_rows(original):
    """Trunks share with the source of another tree."""

    def shared(*, self_attention, **others):
        sources = [source for source, _ in self_attention]
        stale = zip(sources[2:] + sources[:2], self_attention, strict=True)
        return original(self_attention=tuple((s, t) for s, (_, t) in stale), **others)

    return shared


@pytest.mark.parametrize(("name", "broken"), [("cfg", sign), ("RowSharing", stale_rows)])
def test_a_broken_equality_is_caught(
    gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, broken: Any
) -> None:
    import gpu_equality

    placed = gpu_equality.placed

    @contextmanager
    def faulty(place: Any) -> Iterator[None]:
        with placed(place), monkeypatch.context() as patch:
            if place is not gpu_equality.REFERENCE:
                patch.setattr(pairs, name, broken(getattr(pairs, name)))
            yield

    monkeypatch.setattr(gpu_equality, "placed", faulty)
    line = ["--rehearse", "--part", "equality", "--output", str(tmp_path)]
    assert gpu.main([*line, "--only", "euler, fp32"]) == 1
    rows = rows_of(tmp_path / "gpu-equality.json")
    assert {row["status"] for row in rows.values()} == {"wrong"}


def start(output: Path, *line: str, before: str = "pass") -> "subprocess.Popen[bytes]":
    command = f"import sys; {before}; sys.argv = ['gpu.py', *sys.argv[1:]]; "
    command += f"import runpy; runpy.run_path({str(BENCH / 'gpu.py')!r}, run_name='__main__')"
    options = ["--rehearse", "--output", str(output), *line]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", command, *options], env=environment)


def test_without_optional_packages_the_other_rows_are_given(tmp_path: Path) -> None:
    hide = f"sys.modules.update(dict.fromkeys({HIDDEN}))"
    only = "8-bit;latents stage, executor;the same rendering;pairs stage;on the disk"
    assert start(tmp_path, "--only", only, before=hide).wait() == 0
    rows = {
        name: row
        for part in ("equality", "features", "speed")
        for name, row in rows_of(tmp_path / f"gpu-{part}.json").items()
    }
    found = {name: row["note"] or row["status"] for name, row in rows.items()}
    assert found == {
        "the same rendering twice": "right",
        "shapes: 8-bit AdamW": "no bitsandbytes",
        "SD 1.5: 8-bit AdamW": "no bitsandbytes",
        "latents stage, executor processes": "no webdataset",
        "pairs stage, executor processes": "no open_clip",
        "training, 32 px, 2 a step, from latents on the disk": "no simplejpeg",
    }


def test_a_part_that_is_killed_leaves_its_finished_rows(tmp_path: Path) -> None:
    process = start(tmp_path, "--part", "equality")
    path, end = tmp_path / "gpu-equality.json", time.monotonic() + 200
    while not (path.exists() and json.loads(path.read_text())["rows"]):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(1.3)  # into some row
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = rows_of(path)
    assert rows
    assert {row["status"] for row in rows.values()} == {"right"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_of_it_rehearses(gpu, tmp_path: Path) -> None:
    assert gpu.main(["--rehearse", "--output", str(tmp_path), "--minutes", "60"]) == 0
    for part in gpu.PARTS:
        rows = rows_of(tmp_path / f"gpu-{part}.json")
        left = {name: row["note"] for name, row in rows.items() if row["status"] != "right"}
        assert set(left.values()) <= {"no --script"}


def test_without_a_gpu_it_says_so(gpu, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(["--output", str(tmp_path)]) == 1
    assert "there is no CUDA GPU; --rehearse runs on a CPU" in capsys.readouterr().err


def test_tracked_files_are_less_than_48_mb() -> None:
    root = BENCH.parents[1]
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, cwd=root)
    paths = [root / name for name in names.stdout.decode().split("\0") if name]
    assert sum(path.stat().st_size for path in paths if path.is_file()) < 48e6
