"""What is shared among ranks is computed with in bf16 where autocast would round to it anyway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from inference.noise import keyed_noise
from training.module import EditorTraining
from training.precision import bf16_with_float32_attention
from training.sharding import shard, whole


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """Of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def loss_and_gradient(module: EditorTraining) -> tuple[float, Tensor]:
    x = keyed_noise("sharding", shape=(2, 8, 8, 8))
    text = module.backbone.encode_text(["a cat", "red"])
    with bf16_with_float32_attention("cpu"):
        output = module.unet(x, torch.tensor([3, 900]), encoder_hidden_states=text.states).sample
        loss = output.float().square().mean()
    loss.backward()
    gradient = [whole(p.grad).flatten() for p in module.unet.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradient)


@pytest.mark.parametrize("gathered", [torch.float32, torch.bfloat16])
def test_blocks_are_put_together_as_asked_and_loss_and_gradient_stay(
    gathered: torch.dtype, tiny_folder: Path, mesh: DeviceMesh
) -> None:
    plain, shared = EditorTraining(tiny_folder), EditorTraining(tiny_folder)
    loss, gradient = loss_and_gradient(plain)
    shard(shared.unet, mesh, gathered)
    seen: set[torch.dtype] = set()

    def look(layer: nn.Module, _: object) -> None:
        seen.add(layer.weight.dtype)  # type: ignore[arg-type]

    for layer in shared.unet.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_pre_hook(look)
    other_loss, other_gradient = loss_and_gradient(shared)
    assert seen == {gathered}
    assert {p.dtype for p in shared.unet.parameters()} == {torch.float32} == {other_gradient.dtype}
    assert other_loss == pytest.approx(loss, rel=1e-6 if gathered == torch.float32 else 1e-2)
    assert (other_gradient - gradient).norm() <= 1e-2 * gradient.norm()  # as bf16 rounds
