"""Ctrl-C ends every program with 130 and one word, also while its libraries are imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import data_gen.__main__
import data_gen.imports.pairs
import data_gen.preflight
import inference.__main__
import inference.work.edit
import inference.work.invert
import training.__main__
import training.latents.stage

ROOT = Path(__file__).parents[1]


def imported_as(program: str, folder: Path, library: str) -> subprocess.CompletedProcess[str]:
    """Start a program where jsonargparse is this code in a folder."""
    (folder / "jsonargparse").mkdir()
    (folder / "jsonargparse" / "__init__.py").write_text(library)
    return subprocess.run(
        [sys.executable, "-m", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("program", ["inference", "data_gen", "training"])
def test_while_libraries_are_imported(tmp_path: Path, program: str) -> None:
    ended = imported_as(program, tmp_path, "raise KeyboardInterrupt")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("program", ["inference", "data_gen", "training"])
def test_other_errors_of_imports_are_shown(tmp_path: Path, program: str) -> None:
    ended = imported_as(program, tmp_path, "raise ImportError('no such library')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "no such library" in ended.stderr


def test_who_imports_the_package_keeps_his_own_hook() -> None:
    assert sys.excepthook.__module__ != "inference.interrupts"


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "line", "place"),
    [
        (data_gen.__main__, "run --output out", (data_gen.preflight, "require_ready")),
        (
            data_gen.__main__,
            "import --layout jsonl --source a.jsonl --output out",
            (data_gen.imports.pairs, "opened"),
        ),
        (
            training.__main__,
            "latents --base b --output o --path p",
            (training.latents.stage, "open_set"),
        ),
        (
            inference.__main__,
            "invert --images a.png --source x --output o",
            (inference.work.invert, "load_model"),
        ),
        (
            inference.__main__,
            "edit --images a.png --instruction x --output o",
            (inference.work.edit, "_requests"),
        ),
    ],
)
def test_while_a_command_works(
    module: object,
    line: str,
    place: tuple[object, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(*place, interrupt)
    if module is training.__main__:
        with pytest.raises(SystemExit) as ending:
            training.__main__.main(line.split())
        code = ending.value.code
    else:
        code = module.main(line.split())
    assert code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
