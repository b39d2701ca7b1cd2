"""The import contracts of pyproject.toml, tried on packages that keep and that break them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(folder: Path, module: str, line: str) -> subprocess.CompletedProcess[str]:
    """Checks three near-empty packages in `folder` of which `module` holds `line`."""
    files = ["inference", "data_gen", "data_gen/records", "data_gen/shards", "data_gen/pairs"]
    for name in [*files, "training", "training/objective"]:
        path = folder / (f"{name}.py" if "/" in name else f"{name}/__init__.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text('"""Nothing."""\n')
    (folder / "data_gen/shards.py").write_text("import data_gen.pairs\n")
    (folder / module).write_text(line + "\n")
    shutil.copy(ROOT / "pyproject.toml", folder)
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([tool, "--no-cache"], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("training/objective.py", "import data_gen.records, data_gen.shards, inference"),
        ("training/objective.py", "from data_gen.shards import read_pair"),
        ("data_gen/pairs.py", "import inference"),
    ],
)
def test_allowed(tmp_path, module, line):
    done = lint_imports(tmp_path, module, line)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("training/objective.py", "import data_gen.pairs"),
        ("training/objective.py", "from data_gen.pairs import render"),
        ("training/objective.py", "import data_gen"),
        ("data_gen/records.py", "import training.objective"),
        ("inference/__init__.py", "import data_gen.records"),
        ("inference/__init__.py", "import training"),
    ],
)
def test_forbidden(tmp_path, module, line):
    done = lint_imports(tmp_path, module, line)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout
