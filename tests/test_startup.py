"""Help and wrong options are answered at once, without what takes seconds to import."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest

import data_gen.commands
import inference.__main__
import training.commands
from inference.config import Config
from inference.editors.config import EDITORS
from inference.inversion.config import INVERSIONS
from training import signatures
from training.data.data_module import PairData
from training.module import EditorTraining
from training.running.checkpoints import Checkpoints
from training.running.held_out import HeldOutEdits
from training.running.progress import Progress

HEAVY = (
    *("torch", "diffusers", "transformers", "peft", "open_clip", "openai", "datasets", "pyarrow"),
    *("pytorch_lightning", "matplotlib", "scipy", "PIL", "huggingface_hub"),
)

# In a process of its own, where nothing is imported yet; each command is asked for its help, and
# told an option that there is not.
WALK = """
import contextlib, importlib, io, json, sys

package, *heavy = sys.argv[1:]
main = importlib.import_module(f"{package}.__main__").main
commands, listed = json.loads(sys.stdin.read())


def ask(*line):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(list(line))
        except SystemExit as ended:
            code = ended.code
    found = [name for name in heavy if name in sys.modules]
    assert not found, f"{package} {' '.join(line)} imports {found}"
    return code, said.getvalue()


code, said = ask("--help")
assert code == 0
assert all(f"    {name} " in said for name in listed), said
for name in commands:
    code, help = ask(name, "--help")
    assert code == 0 and help.startswith("usage: "), help
    code, error = ask(name, "--nonsense", "1")
    assert code == 2 and error.count(chr(10)) == 1, error
    if "(required" in help:
        code, error = ask(name)
        assert code == 2 and error.count(chr(10)) == 1, error
code, said = ask("nonsense")
assert code == 2 and all(name in said for name in listed), said
code, said = ask()
assert code == 2 and "subcommand" in said, said
"""

COMMANDS = {
    "inference": [*inference.__main__.commands_of([])],
    "data_gen": [*data_gen.commands.COMMANDS],
    "training": [*training.commands.COMMANDS],
}
LIGHTNINGS = ("fit", "doctor")
"""Their options are those of Lightning's trainer too, which says them once it is imported."""


def walk(package: str, commands: list[str], listed: list[str], heavy: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WALK, package, *heavy],
        input=json.dumps([commands, listed]),
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", COMMANDS)
def test_help_and_usage_errors_need_no_library_of_models(package: str) -> None:
    listed = COMMANDS[package]
    walked = [name for name in listed if package != "training" or name not in LIGHTNINGS]
    walk(package, walked, listed, HEAVY)


def test_those_of_lightning_need_lightning_alone() -> None:
    """That is torch and, for its metrics, transformers; not what draws, judges or asks."""
    others = ("diffusers", "peft", "open_clip", "openai", "datasets", "scipy", "bitsandbytes")
    walk("training", [*LIGHTNINGS], COMMANDS["training"], others)


@pytest.mark.parametrize(
    ("signature", "made"),
    [
        (signatures.editor_training, EditorTraining),
        (signatures.pair_data, PairData),
        (signatures.progress, Progress),
        (signatures.held_out_edits, HeldOutEdits),
        (signatures.checkpoints, Checkpoints),
    ],
)
def test_a_signature_is_that_of_what_it_makes(
    signature: Callable[..., Any], made: Callable[..., Any]
) -> None:
    offered, taken = inspect.signature(signature), inspect.signature(made)
    assert list(offered.parameters.values()) == list(taken.parameters.values())


@pytest.mark.parametrize("config", [*EDITORS.values(), *INVERSIONS.values()])
def test_options_are_those_of_the_class_that_they_are_of(config: type[Config]) -> None:
    """It takes them all; what it takes beside them is no option."""
    module, name = config.of.split(":")
    made = getattr(importlib.import_module(module), name)
    assert issubclass(made, config)
    more = {one.name for one in fields(made)} - {one.name for one in fields(config)}
    assert more <= {"backbone", "mask", "progress"}
