"""What Prompt-to-Prompt must leave as it is, whatever its knobs; and what it must refuse."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.alignment import WordNotFound
from inference.attention import RowSharing
from inference.backbone import Backbone, PromptTooLong
from inference.editors.config import Blend
from inference.editors.editor import EditRequest
from inference.editors.prompt_to_prompt import PromptToPrompt, _Control
from inference.guidance import cfg
from inference.inversion.config import ProximalGuidance
from inference.inversion.ddim import Ddim, Direct, NegativePrompt, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.noise import keyed_noise
from inference.samplers import ddim
from inference.sampling import denoise
from inference.text import Text

STEPS = 6
SWAP = EditRequest(source="a red cat", target="a red dog", seed=3)
LONGER = EditRequest(source="a cat", target="a red cat, big", seed=4)
SAME = EditRequest(source="a red cat", target="a red cat", seed=5)
KNOBS: tuple[Mapping[str, Any], ...] = (
    {},
    {"substitute": False},
    {"cross": (0.2, 0.7), "self_attention": (0.0, 1.0)},
    {"cross_of": {"cat": (0.0, 0.3)}, "weights": {"cat": -1.5}},
    {"blend": Blend(target=("cat",)), "weights": {"cat": 2.0}},
)


def editor(backbone: Backbone, **knobs: Any) -> PromptToPrompt:
    return PromptToPrompt(backbone=backbone, steps=STEPS, **knobs)


@torch.no_grad()
def plain(backbone: Backbone, prompt: str, seed: int) -> Tensor:
    """One picture by plain sampling with guidance, (3, H, W)."""
    sampler = ddim(backbone.scheduler, STEPS)
    texts = Text.cat([backbone.encode_text([""]), backbone.encode_text([prompt])])

    def predict(i: int, x: Tensor) -> Tensor:
        output = backbone.unet_output(torch.cat([x, x]), sampler.timesteps[i], texts)
        uncond, cond = output.chunk(2)
        return cfg(uncond, cond, 7.5)

    first = sampler.init_scale * keyed_noise("edit", seed, "start", shape=(1, 4, 8, 8))
    return backbone.decode(denoise(predict, sampler, first))[0]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("knobs", KNOBS)
def test_the_source_is_plain_sampling_under_every_setting(
    tiny_backbone: Backbone, knobs: Mapping[str, Any]
) -> None:
    requests = [LONGER, SAME]
    pairs = editor(tiny_backbone, **knobs).edit_pairs(requests)
    for request, (source, _) in zip(requests, pairs, strict=True):
        close(source, plain(tiny_backbone, str(request.source), request.seed))


@pytest.mark.parametrize("knobs", [KNOBS[0], KNOBS[2]])
def test_equal_prompts_give_equal_pictures(
    tiny_backbone: Backbone, knobs: Mapping[str, Any]
) -> None:
    [(source, target)] = editor(tiny_backbone, **knobs).edit_pairs([SAME])
    assert torch.equal(source, target)


def test_without_windows_the_target_is_plain_sampling(tiny_backbone: Backbone) -> None:
    off = editor(tiny_backbone, cross=(0.0, 0.0), self_attention=(0.0, 0.0))
    for request in (SWAP, LONGER):
        [(_, target)] = off.edit_pairs([request])
        close(target, plain(tiny_backbone, str(request.target), request.seed))


def test_windows_change_the_target(tiny_backbone: Backbone) -> None:
    expected = plain(tiny_backbone, str(SWAP.target), SWAP.seed)
    for knobs in ({"self_attention": (0.0, 0.0)}, {"cross": (0.0, 0.0)}):
        [target] = editor(tiny_backbone, **knobs).edit([SWAP])
        assert (target - expected).abs().max() > 1e-3


def test_weights_of_1_change_nothing_and_others_something(tiny_backbone: Backbone) -> None:
    [expected] = editor(tiny_backbone).edit([SWAP])
    [ones] = editor(tiny_backbone, weights={"dog": 1.0}).edit([SWAP])
    [twice] = editor(tiny_backbone, weights={"dog": 2.0}).edit([SWAP])
    assert torch.equal(ones, expected)
    assert (twice - expected).abs().max() > 1e-4


def test_weights_stop_with_the_window(tiny_backbone: Backbone) -> None:
    off = {"cross": (0.0, 0.0), "self_attention": (0.0, 0.0)}
    [expected] = editor(tiny_backbone, **off).edit([SWAP])
    [weighted] = editor(tiny_backbone, **off, weights={"dog": 2.0}).edit([SWAP])
    assert torch.equal(weighted, expected)


def test_the_window_of_a_word_is_its_own(tiny_backbone: Backbone) -> None:
    every_word = dict.fromkeys(("a", "red", "dog"), (0.0, 0.5))
    [expected] = editor(tiny_backbone, cross=(0.0, 0.5)).edit([SWAP])
    [one] = editor(tiny_backbone, cross=(0.0, 0.5), cross_of={"dog": (0.0, 0.0)}).edit([SWAP])
    [same] = editor(tiny_backbone, cross=(0.0, 0.5), cross_of=every_word).edit([SWAP])
    assert torch.equal(same, expected)
    assert (one - expected).abs().max() > 1e-4


TWINS = EditRequest(source="a cat, a cat", target="a cat, a red cat", seed=6)


@pytest.mark.parametrize(
    ("knobs", "characters"),
    [
        (lambda *words: {"weights": dict.fromkeys(words, -2.0)}, "@13:16"),
        (lambda *words: {"cross_of": dict.fromkeys(words, (0.0, 0.0))}, "@13:16"),
        (lambda *words: {"blend": Blend(target=words, start=0.0, threshold=0.9)}, "@13:16"),
        (lambda *words: {"blend": Blend(source=words, start=0.0, threshold=0.9)}, "@9:12"),
    ],
)
def test_one_of_several_alike_can_be_meant(
    tiny_backbone: Backbone, knobs: Callable[..., Mapping[str, Any]], characters: str
) -> None:
    both, second, same, each = (
        editor(tiny_backbone, **knobs(*words)).edit([TWINS])[0]
        for words in (("cat",), ("cat@2",), (characters,), ("cat@1", "cat@2"))
    )
    assert torch.equal(second, same)
    assert torch.equal(each, both)
    assert (second - both).abs().max() > 1e-4


def test_where_nothing_may_change_the_target_is_the_source(tiny_backbone: Backbone) -> None:
    nowhere = Blend(target=("dog",), threshold=1.0, start=0.0)
    [(source, target)] = editor(tiny_backbone, blend=nowhere).edit_pairs([SWAP])
    assert torch.equal(source, target)
    subtracted = Blend(target=("dog",), subtract=("red",), threshold=-1.0, start=0.0)
    [(source, target)] = editor(tiny_backbone, blend=subtracted).edit_pairs([SWAP])
    assert torch.equal(source, target)


def test_where_all_may_change_blending_does_nothing(tiny_backbone: Backbone) -> None:
    everywhere = Blend(source=("cat",), threshold=-1.0, start=0.0)
    [expected] = editor(tiny_backbone).edit([SWAP])
    [blended] = editor(tiny_backbone, blend=everywhere).edit([SWAP])
    close(blended, expected)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_blend_sees_words_of_any_weight_before_their_weights(
    tiny_backbone: Backbone, weight: float
) -> None:
    unseen = Blend(target=("dog",), start=0.0)
    off = {"cross": (0.0, 1.0), "weights": {"dog": weight}}
    with pytest.raises(ValueError, match=f"the weight of 'dog' is {weight}, so that blend cannot"):
        editor(tiny_backbone, blend=unseen, **off).edit([SWAP])
    subtracting = Blend(target=("red",), subtract=("dog",))
    with pytest.raises(ValueError, match=f"the weight of 'dog' is {weight}, so that blend cannot"):
        editor(tiny_backbone, blend=subtracting, **off).edit([SWAP])
    seen = replace(unseen, weighted=False)
    [(source, target)] = editor(tiny_backbone, blend=seen, **off).edit_pairs([SWAP])
    assert (target - source).abs().max() > 1e-3


def test_windows_may_be_whole_numbers(tiny_backbone: Backbone) -> None:
    whole = editor(tiny_backbone, cross=(0, 1), cross_of={"dog": (0, 1)}, self_attention=(0, 1))
    broken = editor(tiny_backbone, cross=(0.0, 1.0), self_attention=(0.0, 1.0))
    assert torch.equal(whole.edit([SWAP])[0], broken.edit([SWAP])[0])
    half = {"dog": (0.0, 0.5)}
    [mixed] = editor(tiny_backbone, cross=(0, 1), cross_of=half).edit([SWAP])
    [same] = editor(tiny_backbone, cross=(0.0, 1.0), cross_of=half).edit([SWAP])
    assert torch.equal(mixed, same)


@pytest.mark.parametrize("size", [(24, 48), (48, 24)])
def test_blending_suits_pictures_that_are_not_square(
    tiny_backbone: Backbone, size: tuple[int, int]
) -> None:
    request = replace(SWAP, image=keyed_noise("wide", shape=(3, *size)).tanh())

    def edited(**knobs: Any) -> tuple[Tensor, Tensor]:
        [pair] = editor(tiny_backbone, inversion=Direct(), **knobs).edit_pairs([request])
        return pair

    source, target = edited(blend=Blend(target=("dog",), threshold=1.0, start=0.0))
    assert source.shape == target.shape == (3, *size)
    assert torch.equal(source, target)
    everywhere = edited(blend=Blend(target=("dog",), threshold=-1.0, start=0.0))
    close(everywhere[1], edited()[1])
    assert (everywhere[1] - source).abs().max() > 1e-3


def test_a_picture_does_not_depend_on_its_company(tiny_backbone: Backbone) -> None:
    method = editor(tiny_backbone, blend=Blend(source=("cat",)))
    alone = [method.edit([request])[0] for request in (SWAP, LONGER, SAME)]
    for one, other in zip(alone, method.edit([SWAP, LONGER, SAME]), strict=True):
        close(one, other)


@pytest.mark.parametrize(
    "inversion",
    [
        Ddim(),
        NegativePrompt(),
        Proximal(),
        Direct(),
        NullText(inner_steps=2),
        NullText(inner_steps=2, embedding="prompt"),
        EditFriendly(),
    ],
)
def test_of_a_real_picture_the_source_is_its_reconstruction(
    tiny_backbone: Backbone, inversion: Inversion
) -> None:
    image = keyed_noise("picture", shape=(3, 32, 32)).tanh()
    request = replace(SWAP, image=image)
    [(source, target)] = editor(tiny_backbone, inversion=inversion).edit_pairs([request])
    inverted = inversion.invert(
        InversionRequest(
            backbone=tiny_backbone,
            images=image[None],
            prompts=(str(SWAP.source),),
            steps=STEPS,
            guidance_scale=7.5,
        )
    )
    with torch.no_grad():
        expected = tiny_backbone.decode(reconstruct(tiny_backbone, inverted))[0]
    close(source, expected)
    assert (target - source).abs().max() > 1e-3


def test_null_text_for_the_source_alone_leaves_the_target_to_itself(
    tiny_backbone: Backbone,
) -> None:
    request = replace(SWAP, image=keyed_noise("picture", shape=(3, 32, 32)).tanh())

    def edited(inversion: Inversion) -> tuple[Tensor, Tensor]:
        method = editor(
            tiny_backbone, inversion=inversion, cross=(0.0, 0.0), self_attention=(0.0, 0.0)
        )
        [pair] = method.edit_pairs([request])
        return pair

    both, alone = (edited(NullText(inner_steps=2, for_targets=each)) for each in (True, False))
    plain_source, plain_target = edited(Ddim())
    close(alone[0], both[0])
    close(alone[1], plain_target)
    assert (alone[0] - plain_source).abs().max() > 1e-3
    assert (both[1] - plain_target).abs().max() > 1e-3


def test_proximal_guidance_of_nearly_all_is_negative_prompt(
    tiny_backbone: Backbone,
) -> None:
    request = replace(SWAP, image=keyed_noise("picture", shape=(3, 32, 32)).tanh())
    everything = Proximal(guidance=ProximalGuidance(quantile=0.0, back_below=0.0))
    [expected] = editor(tiny_backbone, inversion=NegativePrompt()).edit([request])
    [found] = editor(tiny_backbone, inversion=everything).edit([request])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_proximal_guidance_of_nothing_is_the_picture_itself(tiny_backbone: Backbone) -> None:
    image = keyed_noise("picture", shape=(3, 32, 32)).tanh()
    nothing = Proximal(guidance=ProximalGuidance(quantile=1.0))
    [target] = editor(tiny_backbone, inversion=nothing).edit([replace(SWAP, image=image)])
    # Put back onto its trajectory, which ends at the picture's latents.
    close(target, tiny_backbone.decode(tiny_backbone.encode_image(image[None]))[0])


@torch.no_grad()
def test_proximal_guidance_of_nothing_that_is_never_put_back_is_the_source(
    tiny_backbone: Backbone,
) -> None:
    request = replace(SWAP, image=keyed_noise("picture", shape=(3, 32, 32)).tanh())
    nothing = Proximal(guidance=ProximalGuidance(quantile=1.0, back_below=0.0))
    [(source, target)] = editor(tiny_backbone, inversion=nothing).edit_pairs([request])
    close(target, source)


@torch.no_grad()
def test_below_the_timestep_of_proximal_guidance_the_source_is_the_picture_too(
    tiny_backbone: Backbone,
) -> None:
    image = keyed_noise("picture", shape=(3, 32, 32)).tanh()
    request = replace(SWAP, image=image)
    wanted = tiny_backbone.decode(tiny_backbone.encode_image(image[None]))[0]
    [(source, target)] = editor(tiny_backbone, inversion=Proximal()).edit_pairs([request])
    close(source, wanted)
    assert (target - wanted).abs().max() > 1e-3
    never = Proximal(guidance=ProximalGuidance(back_below=0.0))
    [(source, _)] = editor(tiny_backbone, inversion=never).edit_pairs([request])
    assert (source - wanted).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("skip", "window", "shared"),
    [
        (0.0, (0.0, 0.5), [0, 1, 2]),
        (0.34, (0.0, 0.5), [0, 1, 2]),  # of 4 steps that are run, 3 of 6
        (0.34, (0.0, 0.16), []),  # what the first half of the schedule leaves after a third
        (0.34, (0.5, 1.0), [3]),
        (0.34, (0.0, 1.0), [0, 1, 2, 3]),
    ],
)
def test_windows_begin_at_the_first_step_after_the_skip(
    tiny_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    skip: float,
    window: tuple[float, float],
    shared: list[int],
) -> None:
    steps: list[RowSharing] = []
    at = _Control.at

    def recorded(self: _Control, i: int) -> RowSharing:
        steps.append(at(self, i))
        return steps[-1]

    monkeypatch.setattr(_Control, "at", recorded)
    request = replace(SWAP, image=keyed_noise("picture", shape=(3, 32, 32)).tanh())
    method = editor(
        tiny_backbone, inversion=EditFriendly(skip=skip), cross=window, self_attention=window
    )
    method.edit([request])
    assert len(steps) == STEPS - int(skip * STEPS)
    assert [i for i, sharing in enumerate(steps) if sharing.self_attention] == shared
    assert [i for i, sharing in enumerate(steps) if sharing.cross_maps] == shared


# --- what is refused -----------------------------------------------------------------------------


def refuses(method: PromptToPrompt, request: EditRequest, kind: type[Exception], text: str) -> None:
    calls: list[int] = []
    handle = method.backbone.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(kind, match=text):
        method.edit([SWAP, request])
    handle.remove()
    assert not calls


def test_what_is_wrong_is_said_before_the_first_step(tiny_backbone: Backbone) -> None:
    plain = editor(tiny_backbone)
    refuses(plain, EditRequest(target="a dog"), ValueError, "needs the request's source")
    refuses(plain, EditRequest(source="a cat", instruction="x"), ValueError, "request's target")
    long = EditRequest(source="cat " * 40, target="a dog")
    refuses(plain, long, PromptTooLong, "the text encoder reads 32")
    weighted = editor(tiny_backbone, weights={"dog": 2.0})
    refuses(weighted, SAME, WordNotFound, "'a red cat' has no 'dog'")
    third = editor(tiny_backbone, cross_of={"cat@3": (0.0, 0.5)})
    refuses(third, SAME, WordNotFound, "'a red dog' has no 'cat'")
    blended = editor(tiny_backbone, blend=Blend(target=("dog",)))
    refuses(blended, SAME, WordNotFound, "'a red cat' has no 'dog'")
    subtracting = editor(tiny_backbone, blend=Blend(source=("cat",), subtract=("tree",)))
    refuses(subtracting, SAME, WordNotFound, "has no 'tree'")


def test_a_picture_needs_an_inversion_and_an_inversion_a_picture(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="inversion is None"):
        editor(tiny_backbone).edit([replace(SWAP, image=torch.zeros(3, 32, 32))])
    with pytest.raises(ValueError, match="needs the request's image"):
        editor(tiny_backbone, inversion=Ddim()).edit([SWAP])


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"cross": (0.5, 0.2)}, r"cross is \(0.5, 0.2\)"),
        ({"self_attention": (0.0, 1.5)}, "self_attention is"),
        ({"cross_of": {"cat": (-1.0, 0.2)}}, "cross_of.cat is"),
        ({"weights": {"cat": 3.0}}, "weights.cat is 3.0; expected a number from -2 to 2"),
    ],
)
def test_knobs_out_of_range_are_refused(
    tiny_backbone: Backbone, knobs: Mapping[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        editor(tiny_backbone, **knobs)


def test_a_blend_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="blend names no words"):
        Blend(subtract=("cat",))
