"""What makes a step faster or smaller leaves what it computes as it is."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inference.noise import keyed_noise
from training.module import EditorTraining
from training.optimizer import OptimizerKnobs, adamw
from training.speed import Speed
from training.steps import StepRecord


def loss_and_gradient(base: Path, speed: Speed) -> tuple[float, Tensor]:
    """Of one pass through the UNet in training."""
    module = EditorTraining(base, speed=speed)
    x = keyed_noise("speed", shape=(2, 8, 8, 8))
    text = module.backbone.encode_text(["a cat", "red"])
    output = module.unet(x, torch.tensor([3, 900]), encoder_hidden_states=text.states).sample
    loss = output.square().mean()
    loss.backward()
    gradient = [p.grad.flatten() for p in module.unet.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradient)


@pytest.mark.parametrize(
    "speed",
    [
        Speed(gradient_checkpointing=True),
        Speed(channels_last=True),
        pytest.param(Speed(compile=True), marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradient_stay(speed: Speed, tiny_folder: Path) -> None:
    loss, gradient = loss_and_gradient(tiny_folder, Speed())
    other_loss, other_gradient = loss_and_gradient(tiny_folder, speed)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert other_gradient.shape == gradient.shape
    assert (other_gradient - gradient).norm() <= 1e-5 * gradient.norm()


def test_compiled_weights_keep_their_names(tiny_folder: Path) -> None:
    plain, fast = (
        EditorTraining(tiny_folder, speed=speed)
        for speed in (Speed(), Speed(compile=True, channels_last=True, gradient_checkpointing=True))
    )
    assert plain.state_dict().keys() == fast.state_dict().keys()
    assert fast.unet.is_gradient_checkpointing
    assert fast.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert any(module._compiled_call_impl for module in fast.unet.modules())
    assert not any(module._compiled_call_impl for module in fast.average.modules())


def test_eight_bits_without_their_library_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match=r"pip install 'emend\[eight-bit\]'"):
        adamw(nn.Linear(2, 2), OptimizerKnobs(kind="adamw_8bit"))


def test_a_failing_step_names_the_pairs_of_the_batch_at_fault() -> None:
    step = StepRecord()
    step.add([0, 1], torch.tensor(0.5))
    step.add([2, 3], torch.tensor(float("nan")))
    assert step.suspects("pair-{}".format) == (
        "positions 2 to 3 (pair-2, pair-3), whose loss is not finite"
    )
    step.clear()
    step.add(list(range(10)), torch.tensor(1.0))
    assert step.suspects("pair-{}".format).endswith("pair-7 and 2 more), whose loss is finite")
