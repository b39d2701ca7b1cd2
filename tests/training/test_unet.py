"""A widened UNet is its parent until it has learned something."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from inference.backbone import Backbone
from training.unet import widen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_a_zero_image_condition_it_equals_its_parent_exactly(
    tiny_backbone: Backbone, dtype: torch.dtype
) -> None:
    parent = tiny_backbone.unet
    widened = widen(parent).to(dtype)
    latents = torch.randn(2, 4, 8, 8, dtype=dtype)
    text, timesteps = tiny_backbone.encode_text(["a cat", ""]), torch.tensor([3, 900])
    with torch.no_grad():
        expected = UNet2DConditionModel.from_config(parent.config).to(dtype).eval()
        expected.load_state_dict(parent.state_dict())
        with_condition = torch.cat([latents, torch.zeros_like(latents)], 1)
        found = replace(tiny_backbone, unet=widened).unet_output(with_condition, timesteps, text)
        wanted = replace(tiny_backbone, unet=expected).unet_output(latents, timesteps, text)
    assert torch.equal(found, wanted)


def test_bias_is_copied_and_new_channels_are_zero(tiny_backbone: Backbone) -> None:
    parent = tiny_backbone.unet
    widened = widen(parent)
    assert torch.equal(widened.conv_in.bias, parent.conv_in.bias)
    assert torch.equal(widened.conv_in.weight[:, :4], parent.conv_in.weight)
    assert not widened.conv_in.weight[:, 4:].any()
    assert widened.config.in_channels == 8
    assert parent.config.in_channels == 4


def test_the_copy_shares_nothing_with_its_parent(tiny_backbone: Backbone) -> None:
    parent = tiny_backbone.unet
    before = parent.conv_out.weight.clone()
    with torch.no_grad():
        widen(parent).conv_out.weight.zero_()
    assert torch.equal(parent.conv_out.weight, before)


def test_an_editor_is_trained_further_as_it_is(tiny_backbone: Backbone) -> None:
    editor = widen(tiny_backbone.unet)
    again = widen(editor)
    assert torch.equal(again.conv_in.weight, editor.conv_in.weight)
    with pytest.raises(ValueError, match="takes 8 input channels, expected at most 4"):
        widen(editor, in_channels=4)
