"""No self-attention map is ever materialised, at the size where it would fill a GPU."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inference import attention
from inference.attention import RowSharing, controlled
from inference.backbone import Backbone
from inference.editors.editor import EditRequest
from inference.editors.prompt_to_prompt import PromptToPrompt, _Control

POSITIONS = 64 * 64
TOKENS = 32
"""Of the tiny model's prompts."""


class _Shapes(TorchDispatchMode):
    """Takes down the shape of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= {tuple(x.shape) for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
        return out


@pytest.fixture(scope="module")
def sharing(build_backbone: Callable[..., Backbone]) -> RowSharing:
    """What Prompt-to-Prompt shares in its first step, of one request and with no blend."""
    backbone = build_backbone()
    assert backbone.text_length == TOKENS
    editor = PromptToPrompt(backbone=backbone, weights={"dog": 2.0})
    request = EditRequest(source="a red cat", target="a red dog")
    return _Control([editor._control(request)], editor).at(0)


@pytest.fixture(scope="module")
def shapes_of() -> Iterator[Any]:
    """`shapes_of(sharing)`: of a call of Stable Diffusion 1.5's UNet, computed on no data."""
    attention._row_index.cache_clear()  # what it keeps is real data, and would become unreal
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        inputs = torch.empty(4, 4, 64, 64), torch.tensor(500), torch.empty(4, TOKENS, 768)

        def shapes_of(sharing: RowSharing) -> set[tuple[int, ...]]:
            with torch.no_grad(), controlled(unet, sharing), _Shapes() as shapes:
                unet(*inputs)
            return shapes.seen

        yield shapes_of
    attention._row_index.cache_clear()


def maps(seen: set[tuple[int, ...]], columns: int) -> set[tuple[int, ...]]:
    """Shapes of attention maps: as many rows as a site has positions, and so many columns."""
    sides = {POSITIONS >> (2 * level) for level in range(4)}
    return {s for s in seen if len(s) >= 3 and s[-1] == columns and s[-2] in sides}


def test_prompt_to_prompt_materialises_no_self_attention_map(
    sharing: RowSharing, shapes_of: Any
) -> None:
    assert sharing.self_attention == ((2, 3),)
    assert sharing.cross_maps is not None
    seen = shapes_of(sharing)
    for level in range(3):
        assert not maps(seen, POSITIONS >> (2 * level))
    # Those that a rewriting does need are of the two rows concerned, one site at a time.
    found = maps(seen, TOKENS)
    assert {shape[-2] for shape in found} == {POSITIONS >> (2 * level) for level in range(4)}
    assert {math.prod(shape[:-2]) for shape in found} == {8}  # one row's heads


def test_a_map_would_be_seen() -> None:
    with FakeTensorMode(), _Shapes() as shapes:
        q = torch.empty(4, 8, POSITIONS, 40)
        (q @ q.transpose(-1, -2)).softmax(-1)
    assert (4, 8, POSITIONS, POSITIONS) in maps(shapes.seen, POSITIONS)
