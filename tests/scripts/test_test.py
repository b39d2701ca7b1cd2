"""scripts/test: every check runs, whatever failed before it. .ci/run is that and nothing else."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ["ruff", "mypy", "lint-imports", "pytest"]
CHECKS = ["ruff check", "ruff format", "mypy", "lint-imports", "pytest"]


@pytest.fixture
def checks(installed):
    """Stand-ins for the tools: each notes its arguments, and fails when FAILING names it."""
    for name in TOOLS[:-1]:
        installed.write(
            f".venv/bin/{name}",
            f'#!/bin/sh\necho "{name} $*" >> log\ntest "$FAILING" != {name}\n',
            executable=True,
        )
    (installed.site_packages / "pytest.py").write_text(
        "import os, sys\n"
        "open('log', 'a').write(' '.join(['pytest', *sys.argv[1:]]) + '\\n')\n"
        "sys.exit(os.environ['FAILING'] == 'pytest')\n"
    )
    (installed.folder / "log").unlink(missing_ok=True)
    return installed


def verdicts(output):
    lines = output.split("== summary\n")[1].splitlines()
    return {line[:14].strip(): line[14:].split()[0] for line in lines}


@pytest.mark.parametrize("failing", ["", *TOOLS])
def test_every_check_runs_and_any_failure_counts(checks, failing):
    done = checks.run("scripts/test", FAILING=failing)
    assert done.returncode == (1 if failing else 0)
    failed = [name for name in CHECKS if failing and name.startswith(failing)]
    assert verdicts(done.stdout) == {
        name: "FAILED" if name in failed else "passed" for name in CHECKS
    }
    called = (checks.folder / "log").read_text().splitlines()
    assert [line.split()[0] for line in called] == ["ruff", *TOOLS]


@pytest.mark.parametrize(("arguments", "marks"), [([], "-m not slow"), (["--slow"], "-m  ")])
def test_slow_tests_only_when_asked(checks, arguments, marks):
    checks.run("scripts/test", *arguments, FAILING="")
    assert f"pytest {marks}" in (checks.folder / "log").read_text()


def test_an_unknown_option_is_a_usage_error(tree):
    wrong = tree.run("scripts/test", "--fast")
    assert (wrong.returncode, wrong.stderr) == (2, "usage: scripts/test [--slow]\n")


def test_ci_runs_scripts_test_and_nothing_else():
    assert (ROOT / ".ci/run").read_text().splitlines() == ["#!/bin/sh", "exec scripts/test"]
