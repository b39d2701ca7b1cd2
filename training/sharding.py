"""Weights, moments and average shared among the ranks (FSDP2): `trainer.strategy: fsdp2`.

Each rank keeps its part of every parameter; a block's parameters are put together while it
computes. Lightning's `ModelParallelStrategy` does that, but its sharded checkpoints are read with
pickle, and its whole ones number the optimiser's state by another order than everybody else's.
Here a checkpoint is the same file as that of a run on one device, and either goes on from the
other's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from pytorch_lightning.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

STRATEGY: Final = "fsdp2"
BLOCKS: Final = (BasicTransformerBlock, ResnetBlock2D)
"""What is put together at a time; these hold nearly all of a UNet's parameters."""


def shard(
    unet: UNet2DConditionModel, mesh: DeviceMesh, gathered: torch.dtype = torch.float32
) -> None:
    """Share a UNet's parameters among the ranks of a mesh, in place.

    Args:
        unet: Its parameters are float32 and stay so, with their gradients.
        mesh: One dimension of ranks.
        gathered: What a block's parameters are put together in, to compute with. Under bf16
            autocast bf16 does, which would round weights to it next, at half of what is sent.

    Raises:
        ValueError: Its weights lie channels last, which FSDP2 cannot divide.
    """
    if not all(weights.is_contiguous() for weights in unet.parameters()):
        raise ValueError(f"speed.channels_last is true, which strategy {STRATEGY} cannot do")
    precision = MixedPrecisionPolicy(
        param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for module in list(unet.modules()):
        if isinstance(module, BLOCKS):
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(unet, mesh=mesh, mp_policy=precision, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared among the ranks, whole; all ranks ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _kept(tensor: Tensor, rank: int) -> Tensor:
    """The whole tensor on the CPU of rank 0; on others, which have no use for it, nothing."""
    put_together = whole(tensor.detach())
    return put_together.cpu() if rank == 0 else put_together.new_empty(0, device="cpu")


def _alike(tensor: Tensor, model: Tensor) -> Tensor:
    """This rank's part of a whole tensor, shared as `model` is."""
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor.to(model.device)
    return distribute_tensor(
        tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None
    )


def put_together(
    unet: UNet2DConditionModel, blank: UNet2DConditionModel, rank: int
) -> UNet2DConditionModel:
    """A shared UNet as a plain one, on the CPU of rank 0; all ranks call this together.

    Args:
        unet: The shared one.
        blank: One of the same shape on the meta device; on rank 0 it is filled.
        rank: Of this process.
    """
    state = {name: _kept(weights, rank) for name, weights in unet.state_dict().items()}
    if rank == 0:
        blank.load_state_dict(state, assign=True)
    return blank


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all ranks, with checkpoints as those of one device."""

    def __init__(self, **options: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **options)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether the trainer is to call `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Divide by all ranks, and nothing by tensor parallelism."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What the module saves, put together on rank 0."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return {name: _kept(weights, self.global_rank) for name, weights in state.items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state as its own `state_dict` numbers it, put together on rank 0."""
        state = optimizer.state_dict()
        return state | {"state": _mapped(state["state"], lambda t: _kept(t, self.global_rank))}

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file as on one device; nothing in it is run, whatever `weights_only`."""
        return dict(self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=True))

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this rank's part of the weights."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        for name, weights in checkpoint["state_dict"].items():
            own[name].copy_(_alike(weights, own[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's part of the moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments = {
                number: _mapped(each, partial(_alike, model=parameters[number]))
                for number, each in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})


def _mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested dictionaries with every tensor changed."""
    if isinstance(state, Mapping):
        return {name: _mapped(value, change) for name, value in state.items()}
    return change(state) if isinstance(state, Tensor) else state


StrategyRegistry.register(
    STRATEGY, FullySharded, description="weights, moments and average shared among the ranks"
)
