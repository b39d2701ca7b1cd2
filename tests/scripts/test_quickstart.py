"""scripts/quickstart: its steps in order, stopped by a failure, and gone on with after a kill."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STEP = """
import os, pathlib, sys, time
log = pathlib.Path("log")
log.open("a").write(" ".join(["{name}", *sys.argv[1:]]) + "\\n")
time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
sys.exit(os.environ.get("FAILING") == "{name}")
"""


@pytest.fixture
def chain(installed):
    """Stand-ins for the three steps: each notes its arguments."""
    installed.write("data_gen/__main__.py", STEP.format(name="data_gen"))
    installed.write("training/__main__.py", STEP.format(name="training"))
    installed.write("scripts/report.py", STEP.format(name="report"))
    (installed.folder / "log").unlink(missing_ok=True)
    return installed


def steps(tree):
    return [line.split()[0] for line in (tree.folder / "log").read_text().splitlines()]


def test_the_whole_chain_and_where_to_look(chain):
    done = chain.run("scripts/quickstart")
    assert done.returncode == 0, done.stderr
    assert steps(chain) == ["data_gen", "training", "report"]
    assert done.stdout.splitlines()[-1] == "Look at out/quickstart/report.html"
    assert "1/4 install" in done.stdout
    assert "already done" in done.stdout


@pytest.mark.parametrize("failing", ["data_gen", "training", "report"])
def test_a_failed_step_ends_the_run(chain, failing):
    done = chain.run("scripts/quickstart", FAILING=failing)
    assert done.returncode == 1
    assert steps(chain)[-1] == failing
    assert "Look at" not in done.stdout


def test_two_runs_never_write_at_once(chain):
    """kill -9 takes the script alone; the step it started is still at work."""
    first = chain.start("scripts/quickstart", STEP_SECONDS="4")
    deadline = time.monotonic() + 60
    while not (chain.folder / "log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    second = chain.run("scripts/quickstart")
    first.communicate()
    assert second.returncode == 0
    assert "waiting for an earlier run" in second.stdout
    assert steps(chain) == ["data_gen", "data_gen", "training", "report"]


def test_an_argument_is_a_usage_error(tree):
    wrong = tree.run("scripts/quickstart", "--fast")
    assert (wrong.returncode, wrong.stderr) == (2, "usage: scripts/quickstart\n")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_again_and_again_it_completes_and_then_does_nothing_twice(tmp_path):
    """The real chain in a clone of its own: installation, data, training, page all get killed."""
    clone = tmp_path / "emend"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    for seconds in (20, 45, 70, 100, 130, 160):
        with subprocess.Popen("scripts/quickstart", cwd=clone, start_new_session=True) as run:
            time.sleep(seconds)
            os.killpg(run.pid, signal.SIGKILL)
    command = ["scripts/quickstart"]
    subprocess.run(command, cwd=clone, check=True)
    made = contents(clone / "out")
    assert (clone / "out/quickstart/report.html") in made
    assert (clone / "out/quickstart/editor/model/model_index.json") in made
    assert any(path.suffix == ".tar" for path in made)
    again = subprocess.run(command, cwd=clone, check=True, capture_output=True, text=True)
    assert again.stdout.count("already done") == 3
    assert re.search(r"pairs: (\d+) of \1 units are done", again.stdout)
    assert contents(clone / "out") == made
