"""Inversions: what each must reproduce exactly, and in which order they reproduce pictures."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from inference.backbone import Backbone
from inference.inversion.ddim import Ddim, Direct, NegativePrompt
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import (
    Inversion,
    InversionRequest,
    Inverted,
    guided,
    reconstruct,
)
from inference.inversion.null_text import ABLATIONS, NullText
from inference.noise import keyed_noise
from inference.samplers import ddim, euler_ancestral
from inference.sampling import ddim_invert, denoise
from scripts.bench.null_text_reference import ReferenceNullText

STEPS = 6
PROMPTS = ["a red cat", "a dog"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return keyed_noise("pictures", shape=(2, 3, 32, 32)).tanh()


def request(
    backbone: Backbone, images: Tensor, prompts: list[str], scale: float = 7.5
) -> InversionRequest:
    return InversionRequest(
        backbone=backbone,
        images=images,
        prompts=tuple(prompts),
        steps=STEPS,
        guidance_scale=scale,
    )


def invert(
    inversion: Inversion, backbone: Backbone, images: Tensor, scale: float = 7.5
) -> tuple[Inverted, Tensor]:
    """The inversion, and how far its reconstruction's latents are from the picture's: (B,)."""
    found = inversion.invert(request(backbone, images, PROMPTS, scale))
    again = reconstruct(backbone, found)
    with torch.no_grad():
        wanted = backbone.encode_image(images)
    return found, (again - wanted).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_model_that_is_right_is_inverted_exactly(build_backbone, prediction_type: str) -> None:
    # A model that knows the picture and its noise: its trajectory is a straight mixture of both.
    sampler = ddim(build_backbone(prediction_type).scheduler, 20)
    clean, noise = keyed_noise("clean", shape=(1, 4, 8, 8)), keyed_noise("e", shape=(1, 4, 8, 8))

    def predict(i: int, x: Tensor) -> Tensor:
        # Told the timestep before step i, of the state after it.
        if prediction_type == "epsilon":
            return noise
        return sampler.next_signal[i] * noise - sampler.next_level[i] * clean

    last = sampler.next_signal[-1] * clean + sampler.next_level[-1] * noise
    trajectory = ddim_invert(predict, sampler, last)
    for i in range(sampler.steps):
        expected = sampler.signal[i] * clean + sampler.level[i] * noise
        torch.testing.assert_close(trajectory[i], expected, rtol=1e-3, atol=1e-3)


def test_direct_inversion_is_exact(tiny_backbone: Backbone, images: Tensor) -> None:
    _, errors = invert(Direct(), tiny_backbone, images)
    assert errors.max() == 0


@pytest.mark.parametrize("skip", [0.0, 0.34])
def test_edit_friendly_inversion_is_exact_up_to_a_last_step_without_noise(
    tiny_backbone: Backbone, images: Tensor, skip: float
) -> None:
    found, _ = invert(EditFriendly(skip=skip), tiny_backbone, images)
    again = reconstruct(tiny_backbone, found)
    torch.testing.assert_close(again, found.trajectory[-1], rtol=1e-3, atol=1e-3)
    assert found.first_step == int(skip * STEPS)


def test_edit_friendly_inversion_reproduces_the_picture(build_backbone, images: Tensor) -> None:
    # Every step of this schedule adds noise, so the last arrives exactly.
    _, errors = invert(EditFriendly(skip=0.0), build_backbone("v_prediction"), images)
    assert errors.max() < 1e-6


def test_negative_prompt_inversion_is_inversion_without_guidance(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    _, guided = invert(NegativePrompt(), tiny_backbone, images, scale=7.5)
    _, unguided = invert(Ddim(), tiny_backbone, images, scale=1.0)
    torch.testing.assert_close(guided, unguided, rtol=0.05, atol=1e-6)


def test_no_inner_steps_of_null_text_are_ddim_with_guidance(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    none, errors = invert(NullText(inner_steps=0), tiny_backbone, images)
    ddim_only, expected = invert(Ddim(), tiny_backbone, images)
    assert torch.equal(none.trajectory, ddim_only.trajectory)
    torch.testing.assert_close(errors, expected, rtol=1e-3, atol=1e-6)


def test_no_inner_steps_from_the_prompt_are_negative_prompt_inversion(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    none, _ = invert(NullText(inner_steps=0, begin="prompt"), tiny_backbone, images)
    expected, _ = invert(NegativePrompt(), tiny_backbone, images)
    assert none.null is not None
    assert expected.null is not None
    assert torch.equal(none.null.states, expected.null.states)


def test_knobs_of_null_embeddings_are_refused_of_prompt_embeddings() -> None:
    with pytest.raises(ValueError, match="begin is 'prompt' and embedding 'prompt'; expected"):
        NullText(embedding="prompt", begin="prompt")
    with pytest.raises(ValueError, match="for_targets is False and embedding 'prompt'; expected"):
        NullText(embedding="prompt", for_targets=False)


def test_the_embeddings_are_those_of_the_authors_loop(build_backbone, images: Tensor) -> None:
    # Without an early stop; with one the loops part, since ours looks before an optimiser step.
    asked = request(
        build_backbone("epsilon", dtype=torch.float64), images[:1].double(), PROMPTS[:1]
    )
    theirs = ReferenceNullText(inner_steps=3, early_stop=0.0).invert(asked)
    ours = NullText(inner_steps=3, early_stop=0.0).invert(asked)
    assert theirs.null is not None
    assert ours.null is not None
    assert (theirs.null.states - ours.null.states).abs().max() < 1e-9


def test_what_is_not_a_number_is_not_close(build_backbone, images: Tensor) -> None:
    backbone = build_backbone("epsilon")
    asked = request(backbone, images, PROMPTS)
    calls: list[int] = []

    def spoil(_: object, __: object, output: object) -> None:
        calls.append(1)
        if len(calls) > STEPS:  # the inversion itself goes well
            output.sample[1] = float("nan")  # type: ignore[attr-defined]

    handle = backbone.unet.register_forward_hook(spoil)
    with pytest.raises(ValueError, match=r"nan\] away from its goal at step 0; expected finite"):
        NullText().invert(asked)
    handle.remove()


def test_gradients_do_not_vanish_in_float16(build_backbone, images: Tensor) -> None:
    def moved(dtype: torch.dtype) -> Tensor:
        backbone = build_backbone("epsilon")
        with torch.no_grad():
            backbone.unet.conv_out.weight *= 1e-3  # gradients as small as a large picture's
        for module in backbone.modules.values():
            nn.Module.to(module, dtype)
        asked = replace(request(backbone, images[:1], PROMPTS[:1]), steps=2)
        found = NullText(inner_steps=1, early_stop=0.0).invert(asked)
        assert found.null is not None
        return found.null.states[0].float() - backbone.encode_text([""]).states.float()

    half, single = moved(torch.float16), moved(torch.float32)
    assert (half.sign() == single.sign()).float().mean() > 0.9


def test_null_text_beats_ddim_with_guidance_and_leaves_the_model_alone(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    weights = [p for module in tiny_backbone.modules.values() for p in module.parameters()]
    before, text = [p.clone() for p in weights], tiny_backbone.encode_text(PROMPTS)
    found, errors = invert(NullText(), tiny_backbone, images)
    _, bound = invert(Ddim(), tiny_backbone, images)
    assert (errors < bound).all()
    assert all(torch.equal(p, q) for p, q in zip(before, weights, strict=True))
    # The prompts' embeddings too: those that draw the pictures again are the usual ones.
    again = found.source_texts(0, tiny_backbone.encode_text(PROMPTS))
    assert torch.equal(again.states, text.states)


def test_the_more_inner_steps_the_closer_a_step_comes(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    def error(inner_steps: int) -> float:
        """Of the first step, which starts at the same place whatever was optimised."""
        knobs = NullText(inner_steps=inner_steps, early_stop=0.0)
        found = knobs.invert(request(tiny_backbone, images, PROMPTS))
        text = tiny_backbone.encode_text(PROMPTS)
        predict = guided(tiny_backbone, lambda _: text, found.sampler, 7.5, lambda i: found.null[i])
        with torch.no_grad():
            after = denoise(predict, found.sampler, found.start, stop=1)
        return float((after - found.trajectory[1]).square().mean())

    errors = [error(inner_steps) for inner_steps in (0, 1, 2, 4)]
    assert all(after <= 1.01 * before for before, after in pairwise(errors))
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("name", ABLATIONS)
def test_no_inner_steps_of_an_ablation_are_ddim_with_guidance(
    tiny_backbone: Backbone, images: Tensor, name: str
) -> None:
    none, _ = invert(replace(ABLATIONS[name], inner_steps=0), tiny_backbone, images)
    expected = tiny_backbone.encode_text([""] * 2 if none.source is None else PROMPTS)
    found = none.null if none.source is None else none.source
    assert found is not None
    for i in range(STEPS):
        torch.testing.assert_close(found[i].states, expected.states)


def test_each_ablation_optimises_what_it_says(tiny_backbone: Backbone, images: Tensor) -> None:
    found = {name: invert(knobs, tiny_backbone, images)[0] for name, knobs in ABLATIONS.items()}
    for name, inverted in found.items():
        text = inverted.null if inverted.source is None else inverted.source
        assert text is not None
        is_shared = bool((text.states == text.states[:1]).all())
        assert is_shared == (name in ("global", "textual_inversion"))
        assert (inverted.null is None) == name.startswith("textual_inversion")
        plain = tiny_backbone.encode_text([""] * 2 if inverted.source is None else PROMPTS)
        assert (text.states[-1] - plain.states).abs().max() > 1e-3
    ddim_only, bound = invert(Ddim(), tiny_backbone, images)
    assert not torch.equal(found["random_pivot"].trajectory, ddim_only.trajectory)
    assert torch.equal(found["no_pivot"].trajectory, ddim_only.trajectory)
    _, errors = invert(ABLATIONS["textual_inversion_pivot"], tiny_backbone, images)
    assert (errors < bound).all()


def test_as_many_optimiser_steps_go_into_one_embedding_as_into_many(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    def gradients(knobs: NullText) -> int:
        calls: list[bool] = []
        handle = tiny_backbone.unet.register_forward_hook(
            lambda _, __, output: calls.append(output.sample.requires_grad)
        )
        replace(knobs, early_stop=0.0, inner_steps=2).invert(
            request(tiny_backbone, images, PROMPTS)
        )
        handle.remove()
        return sum(calls)

    assert {gradients(knobs) for knobs in (NullText(), *ABLATIONS.values())} == {2 * STEPS}


def test_a_batch_is_its_pictures_one_by_one(build_backbone, images: Tensor) -> None:
    backbone = build_backbone("epsilon", dtype=torch.float64)
    together, _ = invert(NullText(inner_steps=3, early_stop=0), backbone, images.double())
    for number, prompt in enumerate(PROMPTS):
        alone = NullText(inner_steps=3, early_stop=0).invert(
            request(backbone, images[number : number + 1].double(), [prompt])
        )
        assert alone.null is not None
        assert together.null is not None
        difference = alone.null.states[:, 0] - together.null.states[:, number]
        assert difference.abs().max() < 1e-6


def test_a_picture_that_is_close_stops_and_the_others_go_on(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    rows: list[int] = []
    handle = tiny_backbone.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    near = NullText(early_stop=1e9).invert(request(tiny_backbone, images, PROMPTS))
    handle.remove()
    # On the way there 2 rows a step; on the way back conditional, and the null text's that is
    # looked at and found close, so that it is the step.
    assert sum(rows) == STEPS * (2 + 2 * 2)
    untouched = NullText(inner_steps=0).invert(request(tiny_backbone, images, PROMPTS))
    assert near.null is not None
    assert untouched.null is not None
    assert torch.equal(near.null.states, untouched.null.states)


def test_a_sampler_that_adds_noise_cannot_be_inverted(tiny_backbone: Backbone) -> None:
    sampler = euler_ancestral(tiny_backbone.scheduler, STEPS)
    with pytest.raises(ValueError, match="cannot be inverted; expected ddim"):
        ddim_invert(lambda _, x: x, sampler, torch.zeros(1, 4, 8, 8))


def test_sizes_must_fit_and_need_not_be_square(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="36x32; expected sides that are multiples of 8"):
        request(tiny_backbone, torch.zeros(2, 3, 32, 36), PROMPTS)
    _, errors = invert(Direct(), tiny_backbone, torch.zeros(2, 3, 24, 40))
    assert errors.max() == 0


def test_a_prompt_for_each_picture(tiny_backbone: Backbone, images: Tensor) -> None:
    with pytest.raises(ValueError, match="there are 2 images and 1 prompts"):
        request(tiny_backbone, images, PROMPTS[:1])
