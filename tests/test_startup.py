"""Help and wrong options are answered at once, without what takes seconds to import."""

import json
import os
import subprocess
import sys

import pytest

import data_gen.commands
import inference.__main__

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
commands = json.loads(sys.stdin.read())


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
for name in commands:
    assert f"    {name} " in said, (name, said)
    code, help = ask(name, "--help")
    assert code == 0 and f"{name} [" in help, help
    code, error = ask(name, "--nonsense", "1")
    assert code == 2 and error.count(chr(10)) == 1, error
    if "(required" in help:
        code, error = ask(name)
        assert code == 2 and "required" in error, error
code, said = ask("nonsense")
assert code == 2 and all(name in said for name in commands), said
code, said = ask()
assert code == 2 and "subcommand" in said, said
"""

COMMANDS = {
    "inference": [*inference.__main__.commands_of([])],
    "data_gen": [*data_gen.commands.COMMANDS],
}


@pytest.mark.parametrize("package", COMMANDS)
def test_help_and_usage_errors_need_no_library_of_models(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WALK, package, *HEAVY],
        input=json.dumps(COMMANDS[package]),
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
