"""The import contracts of pyproject.toml, tried on packages that keep and that break them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def layers() -> list[str]:
    """The rooms of data_gen and training, as the contracts have them."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [
        f"{package}/{name.strip()}"
        for contract in found["contracts"]
        for package in contract.get("containers", [])
        for row in contract["layers"]
        for name in row.split("|")
    ]


def options() -> list[str]:
    """The modules of options, which need no library of models."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [contract] = [one for one in found["contracts"] if one["name"].startswith("options")]
    return [name.replace(".", "/") for name in contract["source_modules"]]


def lint_imports(folder: Path, module: str, line: str) -> subprocess.CompletedProcess[str]:
    """Checks three near-empty packages in `folder` of which `module` holds `line`."""
    files = ["inference", "data_gen", *layers(), "training", "training/objective", *options()]
    packages = {str(parent) for name in files for parent in Path(name, "__init__").parents[1:]}
    for name in files:
        path = folder / (f"{name}/__init__.py" if name in packages else f"{name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Nothing."""\n')
    (folder / "data_gen/shards.py").write_text("import data_gen.files\n")
    (folder / "data_gen/recipe.py").write_text("import inference.files\n")
    (folder / module).write_text(line + "\n")
    shutil.copy(ROOT / "pyproject.toml", folder)
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([tool, "--no-cache"], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("training/objective.py", "import data_gen.records, data_gen.shards, inference"),
        ("training/objective.py", "from data_gen.shards import read_pair"),
        ("data_gen/rendering.py", "import data_gen.judging, data_gen.records, inference"),
        ("data_gen/commands.py", "def run():\n    import torch"),
    ],
)
def test_allowed(tmp_path, module, line):
    done = lint_imports(tmp_path, module, line)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("training/objective.py", "import data_gen.rendering"),
        ("training/objective.py", "from data_gen.rendering import render"),
        ("training/objective.py", "import data_gen"),
        ("data_gen/records.py", "import training.objective"),
        ("data_gen/judging.py", "import data_gen.rendering"),
        ("data_gen/rendering.py", "import data_gen.runs"),
        ("training/data.py", "import training.module"),
        ("training/module.py", "import training.running"),
        ("inference/__init__.py", "import data_gen.records"),
        ("inference/__init__.py", "import training"),
        ("data_gen/recipe.py", "import torch"),
        ("inference/files.py", "import diffusers"),
    ],
)
def test_forbidden(tmp_path, module, line):
    done = lint_imports(tmp_path, module, line)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout
