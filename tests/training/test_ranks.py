"""One rank or two, whole weights or shared: the same order, losses, checkpoint and folder."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.training.endings import assert_same_end

pytestmark = pytest.mark.timeout(1500)  # on a busy machine; half a minute on an idle one

STEPS = 3
BATCH = 4
WEIGHTS = Path("model/unet/diffusion_pytorch_model.safetensors")


FSDP2, DDP = "--trainer.strategy=fsdp2", "--trainer.strategy=ddp"
ACCUMULATED = "--trainer.accumulate_grad_batches=2"
SMALLER = ("--trainer.precision=bf16-mixed", "--model.speed.gradient_checkpointing=true")


@pytest.fixture(scope="module")
def plan_of(tiny_folder: Path, shards: Path) -> Callable[..., dict]:
    """`plan_of(root, name, *more, ranks=1)`: a run of three steps for `forked`."""

    def run(root: Path, name: str, *more: str, ranks: int = 1) -> dict:
        arguments = [
            "fit",
            "--config=training/recipes/shapes.yaml",
            f"--output={root / name}",
            f"--model.base={tiny_folder}",
            f"--data.shards={shards}",
            "--model.settings.steps=1",
            "--model.optimizer.schedule=constant",
            f"--data.batch_size={BATCH}",
            "--data.held_out=0.3",
            "--data.cache_latents=false",
            f"--trainer.max_steps={STEPS}",
            "--trainer.accelerator=cpu",
            "--trainer.precision=32-true",
            "--trainer.log_every_n_steps=1",
            f"--trainer.devices={ranks}",
            "--held_out_edits.every=2",
            "--held_out_edits.samples=1",
            *more,
        ]
        return {"arguments": arguments, "ranks": ranks, "order": str(root / f"{name}.order")}

    return run


@pytest.fixture(scope="module")
def runs(plan_of, tmp_path_factory, forked) -> Path:
    """A folder of finished runs, one of them with another number of ranks at every step."""
    root: Path = tmp_path_factory.mktemp("ranks")
    run = partial(plan_of, root)
    lora = ("--model.lora.rank=2", "--trainer.max_steps=1")
    plan = [
        run("one"),
        run("ddp", DDP, ranks=2),
        run("fsdp2", FSDP2, ranks=2),
        run("changing", FSDP2, "--trainer.max_steps=1", ranks=2),
        run("changing", "--trainer.max_steps=2"),
        run("changing", DDP, ranks=2),
        run("fsdp2-resumed", FSDP2, "--trainer.max_steps=1", ranks=2),
        run("fsdp2-resumed", FSDP2, ranks=2),
        run("lora-one", *lora),
        run("lora-fsdp2", FSDP2, *lora, ranks=2),
    ]
    endings = forked(plan)
    assert all(code == 0 for codes in endings for code in codes), endings
    return root


@pytest.fixture(scope="module")
def further_runs(plan_of, tmp_path_factory, forked) -> Path:
    """A folder of finished runs: resumed under DDP, with accumulation, and as SDXL is trained."""
    root: Path = tmp_path_factory.mktemp("further-ranks")
    run = partial(plan_of, root)
    plan = [
        run("ddp", DDP, ranks=2),
        run("ddp-resumed", DDP, "--trainer.max_steps=1", ranks=2),
        run("ddp-resumed", DDP, ranks=2),
        run("accumulated-one", ACCUMULATED),
        run("accumulated-ddp", DDP, ACCUMULATED, ranks=2),
        run("accumulated-fsdp2", FSDP2, ACCUMULATED, ranks=2),
        run("smaller-one", *SMALLER),
        run("smaller-fsdp2", FSDP2, *SMALLER, ranks=2),
    ]
    endings = forked(plan)
    assert all(code == 0 for codes in endings for code in codes), endings
    return root


def weights_of(run: Path) -> torch.Tensor:
    """All as one vector: Adam moves a weight by its full rate whatever the size of its gradient,
    so that rounding moves one that has next to none."""
    return torch.cat([w.flatten() for _, w in sorted(load_file(run / WEIGHTS).items())])


def losses_of(run: Path) -> np.ndarray:
    curves = sorted((run / "logs").glob("*/metrics.csv"))
    return np.concatenate(
        [pd.read_csv(curve)["train/loss"].dropna().to_numpy() for curve in curves]
    )


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "changing"])
def test_ranks_agree_with_one(runs: Path, name: str) -> None:
    one, several = losses_of(runs / "one"), losses_of(runs / name)
    assert len(one) == STEPS
    assert np.abs(one - several).max() <= 1e-5
    left, right = weights_of(runs / "one"), weights_of(runs / name)
    assert (left - right).norm() <= 1e-5 * left.norm()
    assert not torch.equal(left, right)  # they do compute it otherwise


def test_shared_weights_and_moments_go_on_as_unbroken(runs: Path) -> None:
    assert_same_end(runs / "fsdp2", runs / "fsdp2-resumed", steps=STEPS)


@pytest.mark.slow
def test_ranks_go_on_as_unbroken(further_runs: Path) -> None:
    assert_same_end(further_runs / "ddp", further_runs / "ddp-resumed", steps=STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "several", "tolerance"),
    [
        ("accumulated-one", "accumulated-ddp", 1e-5),
        ("accumulated-one", "accumulated-fsdp2", 1e-5),
        ("smaller-one", "smaller-fsdp2", 1e-2),  # each half of a batch is rounded to bf16
    ],
)
def test_ranks_agree_with_one_also_thus(
    further_runs: Path, one: str, several: str, tolerance: float
) -> None:
    losses, others = losses_of(further_runs / one), losses_of(further_runs / several)
    assert len(losses) == len(others) == STEPS
    assert np.abs(losses - others).max() <= tolerance
    left, right = weights_of(further_runs / one), weights_of(further_runs / several)
    assert (left - right).norm() <= tolerance * left.norm()


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "changing"])
def test_ranks_export_the_same_folder(runs: Path, name: str) -> None:
    files = [
        {path.relative_to(runs / run / "model") for path in (runs / run / "model").rglob("*")}
        for run in ("one", name)
    ]
    assert files[0] == files[1]
    for file in files[0]:
        one = runs / "one" / "model" / file
        if one.suffix == ".json":
            assert one.read_bytes() == (runs / name / "model" / file).read_bytes()


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "changing"])
def test_a_checkpoint_is_the_same_whatever_the_ranks(runs: Path, name: str) -> None:
    one, other = (torch.load(runs / run / "last.ckpt", weights_only=True) for run in ("one", name))
    assert one["PairData"] == other["PairData"] == {"position": STEPS * BATCH}
    assert {k: w.shape for k, w in one["state_dict"].items()} == {
        k: w.shape for k, w in other["state_dict"].items()
    }
    moments = [c["optimizer_states"][0]["state"] for c in (one, other)]
    assert moments[0].keys() == moments[1].keys()
    for number, state in moments[0].items():
        torch.testing.assert_close(
            state["exp_avg"], moments[1][number]["exp_avg"], rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_ranks_share_the_order_of_one(runs: Path, name: str) -> None:
    first, second = (
        [json.loads(line) for line in Path(f"{runs / name}.order{rank}").read_text().splitlines()]
        for rank in ("", ".1")
    )
    together = [a + b for a, b in zip(first, second, strict=True)]
    alone = (runs / "one.order").read_text().splitlines()
    assert together == [json.loads(line) for line in alone]
    assert [position for batch in together for position in batch] == list(range(STEPS * BATCH))


def test_changing_ranks_keep_the_order_of_one(runs: Path) -> None:
    alone, first, second = (
        [json.loads(line) for line in (runs / name).read_text().splitlines()]
        for name in ("one.order", "changing.order", "changing.order.1")
    )
    assert [len(first), len(second)] == [3, 2]  # two ranks, one, two
    assert [first[0] + second[0], first[1], first[2] + second[1]] == alone


def test_shared_adapters_are_exported_as_whole_ones(runs: Path) -> None:
    left, right = weights_of(runs / "lora-one"), weights_of(runs / "lora-fsdp2")
    assert (left - right).norm() <= 1e-5 * left.norm()
    for file in (runs / "lora-one" / "lora").glob("*.safetensors"):
        one, other = load_file(file), load_file(runs / "lora-fsdp2" / "lora" / file.name)
        assert one.keys() == other.keys()
