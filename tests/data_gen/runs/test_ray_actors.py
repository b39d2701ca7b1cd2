"""A cluster makes the same set, and goes on making it where a node of it is lost."""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

# Read when Ray is imported. Without a token whoever reaches this machine may use the cluster.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}

from ray.cluster_utils import Cluster

from data_gen.recipe import Recipe
from data_gen.runs.config import ExecutorKnobs
from data_gen.runs.workers import WorkerError
from data_gen.stages import make_pairs

Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with one CPU, without a dashboard, that answers only to who has its token."""
    found = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": 100 * 2**20,
        },
    )
    yield found
    found.shutdown()


def on_cluster(recipe: Recipe, cluster: Cluster, **knobs: int) -> Recipe:
    executor = ExecutorKnobs(kind="ray", address=cluster.address, threads=1, **knobs)
    return replace(recipe, executor=executor)


def elsewhere(recipe: Recipe, name: str) -> Recipe:
    """The recipe with a folder of its own."""
    root = recipe.output.with_name(name)
    root.mkdir()
    shutil.copy(recipe.output / "triplets.jsonl", root)
    return replace(recipe, output=root)


def test_a_cluster_makes_the_same_set(
    recipe: Recipe, cluster: Cluster, contents: Contents, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = elsewhere(recipe, "alone")
    make_pairs(alone)
    make_pairs(on_cluster(recipe, cluster))
    assert contents(recipe.output) == contents(alone.output)
    assert "10/10" in capsys.readouterr().err  # the driver hears of every prompt
    greedy = on_cluster(elsewhere(recipe, "greedy"), cluster)
    greedy = replace(greedy, executor=replace(greedy.executor, threads=2))
    with pytest.raises(WorkerError, match="neither a GPU nor 2 CPUs for an actor"):
        make_pairs(greedy)


def test_no_cluster_is_one_sentence(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(recipe.output))
    with pytest.raises(ConnectionError, match="Could not find any running Ray instance"):
        make_pairs(replace(recipe, executor=ExecutorKnobs(kind="ray")))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_killed_in_mid_run_changes_nothing(
    recipe: Recipe, cluster: Cluster, contents: Contents, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(recipe, pairs=replace(recipe.pairs, unit_size=1))
    alone = elsewhere(recipe, "alone")
    make_pairs(alone)
    node = cluster.add_node(num_cpus=1)

    def kill() -> None:
        """As soon as both nodes have begun, so that a unit is in the making on each."""
        while len(list((recipe.output / ".tmp").glob("*"))) < 2:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    make_pairs(on_cluster(recipe, cluster, workers=2))
    killer.join(1)
    assert not killer.is_alive()
    assert contents(recipe.output) == contents(alone.output)
    assert "is replaced" in capfd.readouterr().err
