"""What attention takes in memory while pairs are rendered, where it would fill a GPU."""

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.pairs import _Rendering
from data_gen.rendering.trees import Tree
from inference import attention
from inference.attention import RowSharing, controlled
from scripts.bench.written_maps import WrittenMaps
from tests.conftest import BuildBackbone
from tests.data_gen.rendering.reference_renderer import LONGER, alignment_of, copying

POSITIONS = 64 * 64
TOKENS = 32


class Live(TorchDispatchMode):
    """Adds up the bytes of all tensors computed and not yet gone, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.shapes: set[tuple[int, ...]] = set()
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._holders: Counter[int] = Counter()  # of a storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf not in self._known:
                self.shapes.add(tuple(leaf.shape))
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._known[tensor] = key
        self._holders[key] += 1
        if self._holders[key] == 1:
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        weakref.finalize(tensor, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.bytes -= size


@pytest.mark.parametrize("share", ["self", "cross", "both"])
def test_rendering_takes_a_quarter_of_the_references_attention_memory(
    build_backbone: BuildBackbone, share: Share
) -> None:
    sharing = first_sharing(build_backbone, share)
    copied: Share = "cross" if share == "cross" else "self"
    maps = WrittenMaps(copying(copied, alignment_of(build_backbone(), LONGER)))
    attention._row_index.cache_clear()  # what it keeps is real data, and would become unreal
    # Stable Diffusion 1.5's UNet and its inputs for one pair, computed on no data.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        inputs = torch.empty(4, 4, 64, 64), torch.tensor(500), torch.empty(4, TOKENS, 768)
        with controlled(unet, sharing), Live() as ours:
            unet(*inputs)
        unet.set_attn_processor(maps)
        with Live() as theirs:
            unet(*inputs)
    attention._row_index.cache_clear()
    sides = {POSITIONS >> (2 * level) for level in range(3)}
    assert (4, 8, POSITIONS, POSITIONS) in theirs.shapes
    assert not {shape for shape in ours.shapes if shape[-2:] in {(side, side) for side in sides}}
    assert ours.peak <= 0.25 * theirs.peak


def first_sharing(build_backbone: BuildBackbone, share: Share) -> RowSharing:
    """What the rows of one pair share in the renderer's first call."""
    tree = Tree(triplet=LONGER, seed_index=0, guidance=5.0, ps=(0.9,))
    knobs = RenderKnobs(share=share, steps=4)
    rendering = _Rendering(build_backbone(), [tree], knobs, None)
    [call] = rendering.plan.root_calls(0)
    sharing = rendering._sharing(call)
    assert sharing is not None
    return sharing
