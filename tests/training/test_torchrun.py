"""The recipe for two nodes, launched as its header says: by torchrun, here once a node for two."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.training.forking import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RECIPE = Path("training/recipes/slurm-2node.yaml")


def losses(run: Path) -> np.ndarray:
    (curve,) = (run / "logs").glob("*/metrics.csv")
    return pd.read_csv(curve)["train/loss"].dropna().to_numpy()


def test_two_nodes_agree_with_one_process(tiny, base_of, shards: Path, tmp_path: Path) -> None:
    line = [
        *tiny(RECIPE, base_of(RECIPE), shards, tmp_path / "run"),
        "--trainer.num_nodes=2",
        "--trainer.strategy=ddp",
        "--trainer.precision=32-true",
    ]
    alone = [
        *tiny(RECIPE, base_of(RECIPE), shards, tmp_path / "one"),
        "--trainer.precision=32-true",
    ]
    launch = [
        *(Path(sys.executable).with_name("torchrun"), "--nnodes", 2, "--nproc-per-node", 1),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "-m"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ".", "HF_HUB_OFFLINE": "1"}

    def started(*parts: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*map(str, parts)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    nodes = [started(*launch, "training", *line) for _ in range(2)]
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    one = started(sys.executable, "-m", "training", *alone)
    said = one.communicate()[0]
    assert one.returncode == 0, said
    assert np.abs(losses(tmp_path / "run") - losses(tmp_path / "one")).max() <= 1e-5
    assert (tmp_path / "run" / "model" / "model_index.json").is_file()
