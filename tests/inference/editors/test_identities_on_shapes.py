"""The identities of all methods on a trained model, with real pictures of its world."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.backbone import Backbone, load_backbone
from inference.editors.config import Blend
from inference.editors.editor import EditRequest
from inference.editors.plug_and_play import PlugAndPlay
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.editors.sdedit import SdEdit
from inference.guidance import cfg
from inference.images import from_numpy
from inference.inversion.ddim import Ddim, Direct, NegativePrompt
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.noise import keyed_noise
from inference.samplers import ddim
from inference.sampling import denoise
from inference.shapes import MODELS
from inference.shapes.render import render
from inference.shapes.scene import Figure, Scene

STEPS, SCALE = 5, 4.0
SOURCE = "a large striped red circle in the middle on a white background"
TARGET = "a large striped green star in the middle on a white background"
SWAP = EditRequest(source=SOURCE, target=TARGET, seed=1)
SAME = EditRequest(source=SOURCE, target=SOURCE, seed=1)
LONGER = EditRequest(source=SOURCE, target=f"{SOURCE}, outlined", seed=1)


@pytest.fixture(scope="module")
def base() -> Backbone:
    return load_backbone(MODELS / "stable-diffusion")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    circle = Figure(shape="circle", colour="red", pattern="striped", size="large", column=8, row=8)
    return from_numpy(render(Scene(figures=(circle,), background="white")))


def p2p(base: Backbone, **knobs: Any) -> PromptToPrompt:
    return PromptToPrompt(backbone=base, steps=STEPS, guidance_scale=SCALE, **knobs)


@torch.no_grad()
def plain(base: Backbone, prompt: str, start: Tensor, null: str = "") -> Tensor:
    """The picture of a prompt from a state, with guidance and nothing else."""
    sampler, texts = ddim(base.scheduler, STEPS), base.encode_text([null, prompt])

    def predict(i: int, x: Tensor) -> Tensor:
        output = base.unet_output(torch.cat([x, x]), sampler.timesteps[i], texts)
        return cfg(*output.chunk(2), SCALE)

    return base.decode(denoise(predict, sampler, start))[0]


def noise(base: Backbone) -> Tensor:
    first = keyed_noise("edit", 1, "start", shape=(1, 4, 16, 16))
    return ddim(base.scheduler, STEPS).init_scale * first


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-3) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "knobs",
    [{}, {"substitute": False}, {"blend": Blend(target=("star",)), "weights": {"green": 2.0}}],
)
def test_the_source_is_plain_sampling(base: Backbone, knobs: Mapping[str, Any]) -> None:
    [(source, target)] = p2p(base, **knobs).edit_pairs([SWAP])
    close(source, plain(base, SOURCE, noise(base)))
    assert (target - source).abs().max() > 0.1


def test_equal_prompts_give_equal_pictures(base: Backbone) -> None:
    [(source, target)] = p2p(base).edit_pairs([SAME])
    assert torch.equal(source, target)


@pytest.mark.parametrize("request_", [SWAP, LONGER])
def test_without_windows_the_target_is_plain_sampling(
    base: Backbone, request_: EditRequest
) -> None:
    [target] = p2p(base, cross=(0.0, 0.0), self_attention=(0.0, 0.0)).edit([request_])
    close(target, plain(base, str(request_.target), noise(base)))


def test_weights_of_1_change_nothing(base: Backbone) -> None:
    [plainly], [weighted] = (p2p(base, **k).edit([SWAP]) for k in ({}, {"weights": {"star": 1.0}}))
    assert torch.equal(plainly, weighted)


def test_plug_and_play_without_thresholds_is_guidance_alone(
    base: Backbone, picture: Tensor
) -> None:
    knobs = {"steps": STEPS, "guidance_scale": SCALE, "negative_prompt": "a red circle"}
    off = PlugAndPlay(backbone=base, features=0.0, attention=0.0, **knobs)
    [found] = off.edit([EditRequest(image=picture, target=TARGET)])
    start = off.invert(picture[None]).start
    close(found, plain(base, TARGET, start, null="a red circle"))


def test_sdedit_of_strength_0_is_the_round_trip(base: Backbone, picture: Tensor) -> None:
    [found] = SdEdit(backbone=base, strength=0.0).edit([EditRequest(image=picture, target=TARGET)])
    with torch.no_grad():
        close(found, base.decode(base.encode_image(picture[None]))[0], 1e-5)


def inverted(base: Backbone, picture: Tensor, method: Inversion) -> tuple[Tensor, Tensor]:
    """The picture's latents, and those that the model draws again."""
    request = InversionRequest(
        backbone=base,
        images=picture[None],
        prompts=(SOURCE,),
        steps=STEPS,
        guidance_scale=SCALE,
    )
    with torch.no_grad():
        clean = base.encode_image(picture[None])
    return clean, reconstruct(base, method.invert(request))


def test_no_inner_steps_of_null_text_are_ddim_with_guidance(
    base: Backbone, picture: Tensor
) -> None:
    _, none = inverted(base, picture, NullText(inner_steps=0))
    _, expected = inverted(base, picture, Ddim())
    close(none, expected)


def test_the_exact_inversions_are_exact(base: Backbone, picture: Tensor) -> None:
    for method in (Direct(), EditFriendly(skip=0.0)):
        clean, again = inverted(base, picture, method)
        close(again, clean)


def test_null_text_is_closer_than_all_that_cost_nothing(base: Backbone, picture: Tensor) -> None:
    errors = {}
    for method in (NullText(), NegativePrompt(), Ddim()):
        clean, again = inverted(base, picture, method)
        errors[type(method)] = float((again - clean).square().mean())
    assert errors[NullText] < errors[NegativePrompt]
    assert errors[NullText] < errors[Ddim]
