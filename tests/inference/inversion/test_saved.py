"""A saved inversion is the inversion, and is refused where it is of something else."""

import json
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inference.backbone import Backbone
from inference.inversion.config import ProximalGuidance
from inference.inversion.ddim import Ddim, Direct, NegativePrompt, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import (
    Inversion,
    InversionRequest,
    Inverted,
    reconstruct,
)
from inference.inversion.null_text import NullText
from inference.inversion.saved import AnotherInversion, Saved, load_inversion, save_inversion
from inference.noise import keyed_noise
from inference.tensors import read_tensors

PROMPTS = ["a red cat", "a dog"]
IMAGES = keyed_noise("pictures", shape=(2, 3, 32, 32)).tanh()


def inverted_by(
    inversion: Inversion, backbone: Backbone, scale: float = 5.0, steps: int = 4
) -> Inverted:
    return inversion.invert(asked(backbone, scale, steps))


def asked(backbone: Backbone, scale: float = 5.0, steps: int = 4) -> InversionRequest:
    return InversionRequest(
        backbone=backbone,
        images=IMAGES,
        prompts=tuple(PROMPTS),
        steps=steps,
        guidance_scale=scale,
    )


def saved(inversion: Inversion, backbone: Backbone, folder: Path) -> Inverted:
    """An inversion of both pictures, a file for each in a folder."""
    inverted = inverted_by(inversion, backbone)
    for number, image in enumerate(IMAGES):
        path = folder / f"{number}.safetensors"
        save_inversion(path, inverted.picture(number), backbone, image)
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
    inverted = saved(inversion, backbone, tmp_path)
    loaded = Saved(path=tmp_path).invert(asked(backbone))
    for name in ("trajectory", "noise", "null.states", "null.pooled", "source.states"):
        found, wanted = (reduce(_part, name.split("."), one) for one in (loaded, inverted))
        assert found is wanted is None or torch.equal(found, wanted)
    tensors = dict.fromkeys(("trajectory", "noise", "null", "source"))
    assert replace(loaded, **tensors) == replace(inverted, **tensors)
    again = reconstruct(backbone, inverted)
    torch.testing.assert_close(reconstruct(backbone, loaded), again, rtol=1e-3, atol=1e-3)


def test_a_folder_serves_any_of_its_pictures(build_backbone, tmp_path: Path) -> None:
    backbone = build_backbone()
    inverted = saved(Direct(), backbone, tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    turned = replace(asked(backbone), images=IMAGES.flip(0), prompts=tuple(PROMPTS[::-1]))
    loaded = Saved(path=tmp_path).invert(turned)
    assert torch.equal(loaded.trajectory, inverted.trajectory.flip(1))
    one = replace(asked(backbone), images=IMAGES[1:], prompts=tuple(PROMPTS[1:]))
    assert torch.equal(Saved(path=tmp_path).invert(one).trajectory, inverted.trajectory[:, 1:])
    with pytest.raises(AnotherInversion, match=r"none of the 2 inversions .* prompt 'a bird'"):
        Saved(path=tmp_path).invert(replace(one, prompts=("a bird",)))
    save_inversion(tmp_path / "2.safetensors", inverted.picture(1), backbone, IMAGES[1])
    with pytest.raises(
        ValueError, match=r"1.safetensors and .*2.safetensors are inversions of one"
    ):
        Saved(path=tmp_path).invert(one)


def test_pictures_inverted_in_two_ways_do_not_go_together(build_backbone) -> None:
    backbone = build_backbone()
    first, second = (inverted_by(way, backbone).picture(0) for way in (Ddim(), Direct()))
    with pytest.raises(ValueError, match="the pictures were inverted in 2 ways; expected one"):
        Inverted.together([first, second])


def test_null_embeddings_are_refused_for_edits_of_another_guidance_scale(
    build_backbone, tmp_path: Path
) -> None:
    backbone = build_backbone()
    saved(NullText(inner_steps=1), backbone, tmp_path)
    text = "null embeddings for guidance scale 5; expected 7.5, as the edit has"
    with pytest.raises(AnotherInversion, match=text):
        Saved(path=tmp_path).invert(asked(backbone, scale=7.5))


@pytest.mark.parametrize("inversion", [Ddim(), Direct(), NegativePrompt(), EditFriendly()])
def test_what_is_not_optimised_for_a_scale_fits_every_one(
    build_backbone, tmp_path: Path, inversion: Inversion
) -> None:
    backbone = build_backbone()
    saved(inversion, backbone, tmp_path)
    loaded = Saved(path=tmp_path).invert(asked(backbone, scale=7.5))
    assert loaded.source_scale == inverted_by(inversion, backbone, scale=7.5).source_scale


@pytest.mark.parametrize("knobs", [{"for_targets": False}, {"embedding": "prompt"}])
def test_embeddings_for_the_source_keep_its_scale(
    build_backbone, tmp_path: Path, knobs: dict[str, Any]
) -> None:
    backbone = build_backbone()
    saved(NullText(inner_steps=1, **knobs), backbone, tmp_path)
    assert Saved(path=tmp_path).invert(asked(backbone, scale=7.5)).source_scale == 5.0


def test_it_is_refused_for_anything_else(build_backbone, tmp_path: Path) -> None:
    backbone, path = build_backbone(), tmp_path / "0.safetensors"
    saved(Direct(), backbone, tmp_path)
    with pytest.raises(AnotherInversion, match="another image"):
        load_inversion(path, backbone, IMAGES[1], PROMPTS[0])
    with pytest.raises(AnotherInversion, match="another prompt"):
        load_inversion(path, backbone, IMAGES[0], PROMPTS[1])
    with pytest.raises(AnotherInversion, match="another model"):
        load_inversion(path, build_backbone("v_prediction"), IMAGES[0], PROMPTS[0])
    other = build_backbone()
    with torch.no_grad():
        other.unet.conv_out.bias[0] += 1
    with pytest.raises(AnotherInversion, match="another model"):
        load_inversion(path, replace(backbone, unet=other.unet), IMAGES[0], PROMPTS[0])
    with pytest.raises(AnotherInversion, match="is an inversion of 4 steps; expected 3"):
        Saved(path=tmp_path).invert(asked(backbone, steps=3))


def test_what_is_no_inversion_is_said_to_be_none(build_backbone, tmp_path: Path) -> None:
    backbone = build_backbone()
    weights, text = tmp_path / "weights.safetensors", tmp_path / "text.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    text.write_text("hello")
    with pytest.raises(ValueError, match="is not an inversion: its format is None"):
        load_inversion(weights, backbone, IMAGES[0], PROMPTS[0])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_inversion(text, backbone, IMAGES[0], PROMPTS[0])
    with pytest.raises(FileNotFoundError):
        load_inversion(tmp_path / "none.safetensors", backbone, IMAGES[0], PROMPTS[0])


@pytest.mark.parametrize(
    ("about", "dropped"),
    [
        ("[" * 100_000, None),
        ("[]", None),
        ({"steps": "x"}, None),
        ({"steps": -1}, None),
        ({"proximal": [1]}, None),
        ({"proximal": {"unheard_of": 1}}, None),
        ({}, "trajectory"),
        (None, None),
    ],
)
def test_a_broken_inversion_is_named(
    build_backbone, tmp_path: Path, about: Any, dropped: str | None
) -> None:
    backbone, path = build_backbone(), tmp_path / "0.safetensors"
    saved(Direct(), backbone, tmp_path)
    metadata, tensors = read_tensors(path, "cpu")
    if isinstance(about, dict):
        metadata["about"] = json.dumps(json.loads(metadata["about"]) | about)
    elif about is None:
        del metadata["about"]
    else:
        metadata["about"] = about
    save_file({n: t for n, t in tensors.items() if n != dropped}, path, metadata)
    with pytest.raises(ValueError, match="0.safetensors"):
        load_inversion(path, backbone, IMAGES[0], PROMPTS[0])
