import pytest
import torch
from safetensors import safe_open
from torch import nn

from training.shapes.loop import LoopKnobs, generator, optimise, rate_at


def regress(module, seed=0):
    def loss(step):
        inputs = torch.randn(8, 3, generator=generator(seed, step))
        return {"loss": (module(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    return loss


def knobs(steps):
    return LoopKnobs(steps=steps, rate=1e-2, warmup=2, ema=0.9, checkpoint_seconds=0.0)


def fresh():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_same_weights_as_an_unbroken_one(tmp_path):
    whole = fresh()
    average = optimise(whole, regress(whole), knobs(10), tmp_path / "whole")
    broken = fresh()
    loss = regress(broken)

    def killed_at_six(step):
        if step == 6:
            raise Killed
        return loss(step)

    with pytest.raises(Killed):
        optimise(broken, killed_at_six, knobs(10), tmp_path / "broken")
    with safe_open(tmp_path / "broken/checkpoint.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "6"
    again = nn.Linear(3, 1)
    resumed = optimise(again, regress(again), knobs(10), tmp_path / "broken")
    assert torch.equal(again.weight, whole.weight)
    assert torch.equal(resumed.weight, average.weight)
    assert not torch.equal(average.weight, whole.weight)


def test_a_finished_run_does_nothing_more(tmp_path):
    module = fresh()
    optimise(module, regress(module), knobs(4), tmp_path)
    weight = module.weight.detach().clone()
    again = fresh()
    optimise(again, regress(again), knobs(4), tmp_path)
    assert torch.equal(again.weight, weight)


def test_the_rate_rises_to_its_peak_and_falls_to_a_hundredth():
    plan = LoopKnobs(steps=100, rate=1.0, warmup=10)
    assert rate_at(0, plan) == 0.1
    assert rate_at(10, plan) == 1.0
    assert abs(rate_at(100, plan) - 0.01) < 1e-9
