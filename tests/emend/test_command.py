"""The command `emend`: what it starts, what it says by itself, and whose packages it starts."""

import os
import re
import resource
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from data_gen.__main__ import COMMANDS
from emend import packages
from emend.__main__ import DATA, EDITING, TRAINING, main
from emend.packages import PACKAGES, require_own
from emend.recipes import MODELS, recipes
from inference.__main__ import commands_of
from inference.shapes import MODELS as SHIPPED

ROOT = Path(__file__).parents[2]


def emend(*words: str, **options) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    line = [sys.executable, "-m", "emend", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


def test_help_lists_every_command_of_the_packages() -> None:
    assert {*DATA} == {*COMMANDS}
    assert {*EDITING} == {*commands_of([])}
    assert {*TRAINING} == {"fit", "latents", "doctor"}


def test_help_needs_no_library_and_no_second(tmp_path: Path) -> None:
    script = "import sys, emend.__main__ as m; m.main(['--help']); print([*sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    loaded = done.stdout.splitlines()[-1]
    for name in (*PACKAGES, "torch", "yaml", "jsonargparse"):
        assert f"'{name}'" not in loaded
    assert re.search(r"^  train fit +train an editor", done.stdout, re.MULTILINE)


def test_a_command_is_run_by_its_package_in_the_name_of_emend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for line, usage in (
        (["convert", "--help"], "usage: emend "),
        (["data", "push", "--help"], "usage: emend data "),
        (["train", "latents", "--help"], "usage: emend train "),
    ):
        with pytest.raises(SystemExit) as ended:
            main(line)
        assert not ended.value.code
        assert capsys.readouterr().out.startswith(usage)


def test_the_exit_code_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--source", "none.ckpt", "--output", "/none"]) == 1
    assert "error: " in capsys.readouterr().err


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"emend {project['version']}\n"


def test_an_unknown_command_is_told_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is no command 'trian'; expected one of edit, ")
    assert said.rstrip().endswith("recipes, doctor")
    assert main([]) == 2


def test_recipes_are_listed_with_a_whole_sentence_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = dict(re.findall(r"^  (\S+) +(.+)$", capsys.readouterr().out, re.MULTILINE))
    assert listed.keys() == recipes().keys() | MODELS.keys()
    assert all(listed[name].endswith(".") for name in recipes())
    assert {*MODELS} == {f"shapes/{folder.name}" for folder in SHIPPED.iterdir()}


def test_a_reader_that_has_enough_is_no_error() -> None:
    line = f"{sys.executable} -m emend recipes | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert not done.stderr


def test_a_package_of_another_distribution_is_told(tmp_path: Path) -> None:
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference/__init__.py").write_text("raise RuntimeError\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = emend("edit", "--help", env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the package inference of Emend is expected at ")
    assert f"found at {tmp_path}/inference/__init__.py" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_package_that_was_written_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "training/__init__.py"
    installed = types.SimpleNamespace(
        as_posix=lambda: "training/__init__.py",
        hash=types.SimpleNamespace(mode="sha256", value="another"),
        locate=lambda: path,
    )
    require_own()
    monkeypatch.setattr(packages.metadata, "files", lambda name: [installed])
    monkeypatch.setattr(
        packages.metadata, "packages_distributions", lambda: {"training": ["emend", "coach"]}
    )
    said = "is not the file that Emend installed, where coach"
    with pytest.raises(packages.ForeignPackage, match=said):
        require_own()
