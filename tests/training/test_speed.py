"""What makes a step faster or smaller leaves what it computes as it is."""

import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from inference.noise import keyed_noise
from training.config import OptimizerKnobs, Speed
from training.module import EditorTraining
from training.optimizer import adamw, clip
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


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_moments_stay_with_their_weights_where_a_run_goes_on_with_another_layout(
    before: bool, after: bool
) -> None:
    """Four steps, two of them after a resume, against four of a layer that never changed."""

    def layer(channels_last: bool) -> tuple[nn.Conv2d, Optimizer]:
        torch.manual_seed(0)
        convolution = nn.Conv2d(3, 5, 3)
        if channels_last:
            convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return convolution, adamw(convolution, OptimizerKnobs(learning_rate=1e-2))

    def step(convolution: nn.Conv2d, optimizer: Optimizer, number: int) -> None:
        optimizer.zero_grad()
        convolution(keyed_noise("layout", number, shape=(2, 3, 8, 8))).square().mean().backward()
        optimizer.step()

    same, began, goes_on = layer(before), layer(before), layer(after)
    for number in range(2):
        step(*same, number)
        step(*began, number)
    goes_on[0].load_state_dict(began[0].state_dict())
    goes_on[1].load_state_dict(began[1].state_dict())
    for number in range(2, 4):
        step(*same, number)
        step(*goes_on, number)
    for expected, found in zip(same[0].parameters(), goes_on[0].parameters(), strict=True):
        torch.testing.assert_close(found, expected)
        moment = goes_on[1].state[found]["exp_avg"]
        torch.testing.assert_close(moment, same[1].state[expected]["exp_avg"])
        assert moment.stride() == found.stride()


@pytest.mark.parametrize("norm", [0.5, 1 - 5e-7, 1.0, 3.0])
@pytest.mark.parametrize("limit", [1.0, None])
def test_gradients_are_clipped_bit_for_bit_as_torch_does(norm: float, limit: float | None) -> None:
    found, expected = ([torch.zeros(3, 5), torch.zeros(7)] for _ in range(2))
    raw = [keyed_noise("clip", number, shape=p.shape) for number, p in enumerate(found)]
    scale = norm / get_total_norm(raw)
    for parameter, gradient in zip([*found, *expected], [*raw, *raw], strict=True):
        parameter.grad = gradient * scale
    assert clip(found, limit) == get_total_norm([cast(Tensor, p.grad) for p in expected])
    if limit is not None:
        torch.nn.utils.clip_grad_norm_(expected, limit)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(cast(Tensor, one.grad), cast(Tensor, other.grad))


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


def test_moments_of_eight_bits_step_as_those_of_32_do() -> None:
    steps = []
    for kind in ("adamw", "adamw_8bit"):
        torch.manual_seed(0)
        layer = nn.Linear(64, 128)
        before = layer.weight.detach().clone()
        optimizer = adamw(layer, OptimizerKnobs(kind=kind, learning_rate=1e-2))
        for number in range(3):
            optimizer.zero_grad()
            layer(keyed_noise("moments", number, shape=(8, 64))).square().mean().backward()
            optimizer.step()
        steps.append(layer.weight.detach() - before)
    assert optimizer.state[layer.weight]["state1"].dtype == torch.uint8
    assert not torch.equal(*steps)
    assert (steps[1] - steps[0]).norm() <= 0.05 * steps[0].norm()


def test_eight_bits_without_their_library_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match=r"pip install 'emend\[eight-bit\]'"):
        adamw(nn.Linear(2, 2), OptimizerKnobs(kind="adamw_8bit"))


def test_eight_bits_are_not_shared_among_ranks(tiny_folder: Path) -> None:
    module = EditorTraining(tiny_folder, optimizer=OptimizerKnobs(kind="adamw_8bit"))
    module._device_mesh = object()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="adamw_8bit, which strategy fsdp2 cannot share"):
        module.configure_model()


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
