"""The set does not depend on who makes it, and nobody is left behind. Real models throughout."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from data_gen.recipe import Recipe
from data_gen.records import EditTriplet
from data_gen.runs.config import ExecutorKnobs
from data_gen.runs.processes import Processes
from data_gen.runs.receipts import Receipt
from data_gen.shards import ShardIndex
from data_gen.stages import PairWork, make_pairs, plan_units

Contents = Callable[[Path], dict[str, bytes]]


def made_by(recipe: Recipe, name: str, **knobs: object) -> Path:
    """Make the pairs of a copy of the recipe's folder."""
    root = recipe.output.with_name(name)
    root.mkdir()
    shutil.copy(recipe.output / "triplets.jsonl", root)
    executor = ExecutorKnobs(threads=1, **knobs)  # type: ignore[arg-type]
    make_pairs(replace(recipe, output=root, executor=executor))
    return root


def test_partitions_give_the_same_set(recipe: Recipe, contents: Contents) -> None:
    roots = []
    for count in (1, 2, 5):
        root = recipe.output.with_name(f"by{count}")
        root.mkdir()
        shutil.copy(recipe.output / "triplets.jsonl", root)
        for index in range(count):
            assert not (root / "index.parquet").exists()
            make_pairs(replace(recipe, output=root, partition=f"{index}/{count}"))
        roots.append(root)
    one, two, five = map(contents, roots)
    assert one == two == five
    assert len(ShardIndex(roots[0])) > 5


def test_processes_make_the_same_set_even_where_one_is_killed(
    recipe: Recipe, triplets: list[EditTriplet], contents: Contents
) -> None:
    whole = made_by(recipe, "whole", kind="in_process")
    root = recipe.output
    units = plan_units(triplets, recipe.pairs)
    told, receipts = 0, []
    for made in Processes(workers=2, threads=1)(PairWork.of(recipe.pairs, root), units):
        told += not isinstance(made, Receipt)
        if told == 1:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        if isinstance(made, Receipt):
            receipts.append(made)
    assert multiprocessing.active_children() == []
    assert told == len(triplets)
    assert sorted(receipt.unit for receipt in receipts) == [unit.name for unit in units]
    for kind in ("shards", "candidates", "rejected"):
        assert contents(root / kind) == contents(whole / kind)


def test_without_ray_one_is_told_what_to_install(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "data_gen.runs.ray_actors", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'emend\[ray\]'"):
        make_pairs(replace(recipe, executor=ExecutorKnobs(kind="ray")))


@pytest.mark.parametrize("name", ["workers", "threads"])
def test_nobody_is_no_executor(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; expected a whole number from 1"):
        ExecutorKnobs(**{name: 0})


ROOT = Path(__file__).parents[3]

LIGHT_DRIVER = """
import multiprocessing, time
from data_gen.runs.processes import Processes
from data_gen.runs.receipts import Outcome, Unit

def start():
    return make

def make(unit):
    yield Outcome(status="passed", reasons={})
    time.sleep(600)

if __name__ == "__main__":
    units = [Unit(name=name, fingerprint=name, triplets=()) for name in ("one", "two")]
    for made in Processes(workers=2, threads=1)(start, units):
        print("making", flush=True)
"""


def started(command: list[str], *, says: bytes, times: int = 1) -> "subprocess.Popen[bytes]":
    """Start a program and wait until it has said something so many times."""
    driver = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert driver.stdout is not None
    heard = b""
    while heard.count(says) < times:
        some = os.read(driver.stdout.fileno(), 4096)
        assert some, heard.decode()
        heard += some
    return driver


def children(driver: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return psutil.Process(driver.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=30)
    assert left == []


def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(LIGHT_DRIVER)
    with started([str(tmp_path / "driver.py")], says=b"making", times=2) as driver:
        workers = children(driver)
        assert len(workers) >= 2
        driver.kill()
    assert_gone(workers)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_is_ended_with_its_workers(recipe: Recipe, sent: int, code: int) -> None:
    pairs = recipe.pairs
    line = ["-m", "data_gen", "pairs", "--output", str(recipe.output)]
    line += ["--pairs.model", pairs.model, "--pairs.clip", pairs.clip, "--pairs.unit_size", "1"]
    line += ["--executor.kind", "processes", "--executor.workers", "2"]
    with started(line, says=b"1/10") as driver:
        workers = children(driver)
        assert len(workers) >= 2
        os.killpg(driver.pid, sent)  # as a terminal does
        assert driver.wait(60) == code
        assert driver.stdout is not None
        assert b"Traceback" not in driver.stdout.read()
    assert_gone(workers)
