"""A saved inversion is the inversion, and is refused where it is of something else."""

from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference.backbone import Backbone
from inference.guidance import ProximalGuidance
from inference.inversion.ddim import Direct, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.inversion.saved import AnotherInversion, load_inversion, save_inversion
from inference.noise import keyed_noise

PROMPTS = ["a red cat", "a dog"]
IMAGES = keyed_noise("pictures", shape=(2, 3, 32, 32)).tanh()


def saved(inversion: Inversion, backbone: Backbone, path: Path):
    inverted = inversion.invert(
        InversionRequest(
            backbone=backbone,
            images=IMAGES,
            prompts=tuple(PROMPTS),
            steps=4,
            guidance_scale=5.0,
        )
    )
    save_inversion(path, inverted, backbone, IMAGES)
    return inverted


def _part(whole: object, name: str) -> object:
    return None if whole is None else getattr(whole, name)


INVERSIONS = [
    NullText(inner_steps=1),
    NullText(inner_steps=1, for_targets=False),
    NullText(inner_steps=1, embedding="prompt"),
    Direct(),
    EditFriendly(),
    Proximal(guidance=ProximalGuidance(quantile=0.5)),
]


@pytest.mark.parametrize("inversion", INVERSIONS)
@pytest.mark.parametrize("xl", [False, True])
def test_it_is_the_same_inversion(
    build_backbone, tmp_path: Path, inversion: Inversion, xl: bool
) -> None:
    backbone = build_backbone(xl=xl)
    path = tmp_path / "pictures.safetensors"
    inverted = saved(inversion, backbone, path)
    loaded = load_inversion(path, backbone, IMAGES, PROMPTS)
    for name in ("trajectory", "noise", "null.states", "null.pooled", "source.states"):
        found, wanted = (reduce(_part, name.split("."), one) for one in (loaded, inverted))
        assert found is wanted is None or torch.equal(found, wanted)
    assert loaded.proximal == inverted.proximal
    assert loaded.null_for_targets == inverted.null_for_targets
    again = reconstruct(backbone, inverted)
    torch.testing.assert_close(reconstruct(backbone, loaded), again, rtol=1e-3, atol=1e-3)
    assert (loaded.sampler, loaded.first_step) == (inverted.sampler, inverted.first_step)


def test_it_is_refused_for_anything_else(build_backbone, tmp_path: Path) -> None:
    backbone, path = build_backbone(), tmp_path / "pictures.safetensors"
    saved(Direct(), backbone, path)
    with pytest.raises(AnotherInversion, match="another image"):
        load_inversion(path, backbone, IMAGES.flip(0), PROMPTS)
    with pytest.raises(AnotherInversion, match="another prompt"):
        load_inversion(path, backbone, IMAGES, PROMPTS[::-1])
    with pytest.raises(AnotherInversion, match="another model"):
        load_inversion(path, build_backbone("v_prediction"), IMAGES, PROMPTS)
    other = build_backbone()
    with torch.no_grad():
        other.unet.conv_out.bias[0] += 1
    with pytest.raises(AnotherInversion, match="another model"):
        load_inversion(path, replace(backbone, unet=other.unet), IMAGES, PROMPTS)


def test_what_is_no_inversion_is_said_to_be_none(build_backbone, tmp_path: Path) -> None:
    backbone = build_backbone()
    weights, text = tmp_path / "weights.safetensors", tmp_path / "text.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    text.write_text("hello")
    with pytest.raises(ValueError, match="is not an inversion: its format is None"):
        load_inversion(weights, backbone, IMAGES, PROMPTS)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_inversion(text, backbone, IMAGES, PROMPTS)
    with pytest.raises(FileNotFoundError):
        load_inversion(tmp_path / "none.safetensors", backbone, IMAGES, PROMPTS)
