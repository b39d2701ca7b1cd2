"""The wheel, in an environment of its own and another folder: what a user of `pip install` has."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_gen", "emend", "inference", "training")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the backend that pyproject.toml names, from a copy of what git tracks."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", output, source], check=True, capture_output=True)
    (found,) = output.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; what the wheel needs is borrowed from this one."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # a .pth does not read those of the folder that it adds: no checkout comes with it
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


@pytest.mark.slow
def test_recipes_models_and_templates_are_in_it(wheel: Path) -> None:
    names = {*zipfile.ZipFile(wheel).namelist()}
    files = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {*files} <= names
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {*PACKAGES}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quickstart_runs_from_it_in_another_folder(installed: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    shutil.copy(ROOT / "docs/circle.png", tmp_path)

    def run(program: str, *words: str) -> str:
        done = subprocess.run(
            [installed / "bin" / program, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(
        "python", "-c", "import inference, emend; print(inference.__file__, emend.__file__)"
    )
    assert all(path.startswith(str(installed)) for path in where.split())
    assert run("emend", "--version").startswith("emend ")
    assert "data/shapes-quickstart" in run("emend", "recipes")
    assert "can begin" in run("emend", "doctor", "data/shapes-quickstart")
    run(*["emend", "data", "run", "--config", "shapes-quickstart", "--captions.count", "6"])
    few = "--trainer.max_steps 2 --held_out_edits.every 2 --held_out_edits.samples 1"
    run(*f"emend train fit --config shapes-quickstart {few}".split())
    edit = ["edit", "--images", "circle.png", "--instruction", "make the circle green"]
    for model in ("out/quickstart/editor/model", "shapes/instruct-pix2pix"):
        run("emend", *edit, "--model", model, "--steps", "2", "--output", "edited.png")
        assert (tmp_path / "edited.png").stat().st_size > 100
        (tmp_path / "edited.png").unlink()
