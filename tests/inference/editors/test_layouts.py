"""Which sites are read and injected in the real UNets of Stable Diffusion 1, 2 and XL.

They are computed on no data, so their size costs nothing.
"""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from inference.attention import MapRecorder, controlled
from inference.editors.blend import blend_grid
from inference.editors.plug_and_play import attention_sites, copied_feature

TOKENS = 77
LAYOUTS: dict[str, dict[str, Any]] = {
    "1": {"cross_attention_dim": 768},
    "2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "XL": {
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> tuple[str, UNet2DConditionModel]:
    with torch.device("meta"):
        return request.param, UNet2DConditionModel(**LAYOUTS[request.param])


def call(unet: UNet2DConditionModel, height: int, width: int) -> None:
    """A call with 3 rows, whatever it computes."""
    with torch.device("meta"), torch.no_grad():
        text = torch.empty(3, TOKENS, unet.config.cross_attention_dim)
        added = {"text_embeds": torch.empty(3, 1280), "time_ids": torch.empty(3, 6)}
        unet(torch.empty(3, 4, height, width), torch.tensor(5), text, added_cond_kwargs=added)


@pytest.mark.parametrize(
    ("latents", "expected"),
    [
        ((64, 64), (16, 16)),
        ((96, 96), (24, 24)),
        ((128, 128), (32, 32)),
        ((48, 64), (12, 16)),
        ((32, 48), (16, 24)),
    ],
)
def test_the_blend_s_grid_is_one_at_which_the_model_looks_at_the_text(
    layout: tuple[str, UNet2DConditionModel],
    latents: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    _, unet = layout
    assert blend_grid(unet, *latents) == expected
    positions = expected[0] * expected[1]
    with controlled(unet) as hooks:
        hooks.recorder = MapRecorder([1, 2], positions)
        call(unet, *latents)
    assert hooks.recorder.total is not None
    assert hooks.recorder.total.shape == (2, positions, TOKENS)


def test_plug_and_play_injects_where_the_paper_does(
    layout: tuple[str, UNet2DConditionModel],
) -> None:
    name, unet = layout
    layers = [tuple(map(int, site.split(".")[1:4:2])) for site in attention_sites(unet)]
    # (block, layer) of the decoder: the number of transformer blocks there.
    found = {layer: layers.count(layer) for layer in set(layers)}
    if name == "XL":
        assert found == {(0, 1): 10, (0, 2): 10, (1, 0): 2, (1, 1): 2, (1, 2): 2}
    else:
        assert found == {(1, 1): 1, (1, 2): 1, **{(k, j): 1 for k in (2, 3) for j in range(3)}}
    with copied_feature(unet) as feature:
        call(unet, 64, 64)
    # Of the coarsest grid at which the model attends, outside its middle.
    assert feature.seen.shape == (3, 1280, 16, 16)
