"""A small project for the scripts to install, so that no test needs an index or minutes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# An in-tree build backend: pip installs the project without fetching anything.
BACKEND = """
import os, pathlib, time, tomllib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    pathlib.Path("building").touch()
    time.sleep(float(os.environ.get("BUILD_SECONDS", "0")))
    metadata = ["Metadata-Version: 2.1", "Name: tiny", "Version: 1.0", "Provides-Extra: dev"]
    metadata += [f"Requires-Dist: {name}" for name in project["dependencies"]]
    members = {
        "tiny.py": f"marker = {project['description']!r}",
        "tiny-1.0.dist-info/METADATA": "\\n".join(metadata) + "\\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n",
    }
    record = "".join(f"{name},,\\n" for name in [*members, "tiny-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {**members, "tiny-1.0.dist-info/RECORD": record}.items():
            wheel.writestr(name, text)
    return "tiny-1.0-py3-none-any.whl"
"""

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "1.0"
description = "first"
dependencies = []
"""


ENSURE_VENV = ("bash", "-c", 'set -euo pipefail; source scripts/_venv.sh; ensure_venv "$0"')


def _outer_environment() -> dict[str, str]:
    """Ours, without a PYTHONPATH that would lead to the packages of this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class Tree:
    """A checkout that holds the scripts and the small project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir(parents=True)
        for name in ("_venv.sh", "test", "quickstart"):
            shutil.copy(ROOT / "scripts" / name, folder / "scripts")
        self.write("backend.py", BACKEND)
        self.write("pyproject.toml", PYPROJECT)

    def write(self, name: str, text: str, *, executable: bool = False) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if executable:
            path.chmod(0o755)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=_outer_environment() | {"PIP_NO_INDEX": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(*command, **environment) as process:
            out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def start_ensure_venv(self, **environment: str) -> subprocess.Popen[str]:
        return self.start(*ENSURE_VENV, "", **environment)

    def ensure_venv(self, extra: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """What the scripts do first, by itself."""
        return self.run(*ENSURE_VENV, extra, **environment)

    @property
    def site_packages(self) -> Path:
        return next((self.folder / ".venv").glob("lib/python*/site-packages"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "checkout")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree whose .venv stands; a test that disturbs it leaves it whole."""
    tree = Tree(tmp_path_factory.mktemp("installed") / "checkout")
    first = tree.ensure_venv("dev")
    assert first.returncode == 0, first.stderr
    return tree
