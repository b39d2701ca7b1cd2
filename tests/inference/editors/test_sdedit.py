"""SDEdit: what strength, mask and repeats must leave as it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.backbone import Backbone
from inference.editors.editor import EditRequest
from inference.editors.sdedit import SdEdit
from inference.inversion.ddim import Ddim, Direct, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.noise import keyed_noise

STEPS = 8


@pytest.fixture(scope="module")
def requests() -> list[EditRequest]:
    return [
        EditRequest(image=image, source="a red cat", target="a red dog", seed=seed)
        for seed, image in enumerate(keyed_noise("pictures", shape=(2, 3, 32, 32)).tanh())
    ]


def edited(backbone: Backbone, requests: list[EditRequest], **knobs: Any) -> Tensor:
    return torch.stack(SdEdit(backbone=backbone, steps=STEPS, **knobs).edit(requests))


def pictures(requests: list[EditRequest]) -> Tensor:
    return torch.stack([one.image for one in requests if one.image is not None])


@torch.no_grad()
def round_trip(backbone: Backbone, requests: list[EditRequest]) -> Tensor:
    return backbone.decode(backbone.encode_image(pictures(requests)))


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_strength_0_is_the_round_trip_through_the_vae(
    tiny_backbone: Backbone, requests: list[EditRequest], sampler: str
) -> None:
    found = edited(tiny_backbone, requests, strength=0.0, sampler=sampler)
    torch.testing.assert_close(found, round_trip(tiny_backbone, requests))


def test_the_stronger_the_further(tiny_backbone: Backbone, requests: list[EditRequest]) -> None:
    kept = round_trip(tiny_backbone, requests)
    distances = [
        float((edited(tiny_backbone, requests, strength=strength) - kept).abs().mean())
        for strength in (0.25, 0.5, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_the_number_of_steps_is_the_strength_s(
    tiny_backbone: Backbone, requests: list[EditRequest]
) -> None:
    calls: list[int] = []
    handle = tiny_backbone.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    edited(tiny_backbone, requests, strength=0.5, repeats=3)
    handle.remove()
    assert len(calls) == 3 * STEPS // 2


@pytest.mark.parametrize("repeats", [1, 2])
def test_in_pixel_space_what_may_not_change_is_exactly_the_source(
    tiny_backbone: Backbone, requests: list[EditRequest], repeats: int
) -> None:
    mask = torch.zeros(32, 32)
    mask[:, 16:] = 1
    found = edited(tiny_backbone, requests, mask=mask, space="pixel", repeats=repeats)
    assert torch.equal(found[..., :16], pictures(requests)[..., :16])
    assert (found[..., 16:] - pictures(requests)[..., 16:]).abs().max() > 0.01


def test_masks_suit_pictures_that_are_not_square(tiny_backbone: Backbone) -> None:
    wide = EditRequest(image=keyed_noise("wide", shape=(3, 16, 32)).tanh(), target="a cat", seed=1)
    mask = torch.zeros(16, 32)
    mask[:8, 24:] = 1
    found = edited(tiny_backbone, [wide], mask=mask, space="pixel")
    changed = (found[0] - wide.image).abs().amax(dim=0) > 0
    assert not changed[mask == 0].any()
    assert changed[mask == 1].float().mean() > 0.9
    latent = edited(tiny_backbone, [wide], mask=torch.zeros(16, 32))
    torch.testing.assert_close(latent, round_trip(tiny_backbone, [wide]))


def test_in_latent_space_nothing_changes_where_nothing_may(
    tiny_backbone: Backbone, requests: list[EditRequest]
) -> None:
    nowhere, everywhere = torch.zeros(32, 32), torch.ones(32, 32)
    kept = edited(tiny_backbone, requests, mask=nowhere)
    torch.testing.assert_close(kept, round_trip(tiny_backbone, requests))
    assert torch.equal(
        edited(tiny_backbone, requests, mask=everywhere), edited(tiny_backbone, requests)
    )


def test_seeds_differ_and_repeat(tiny_backbone: Backbone, requests: list[EditRequest]) -> None:
    first = edited(tiny_backbone, requests)
    assert torch.equal(first, edited(tiny_backbone, requests))
    alone = edited(tiny_backbone, requests[1:])
    torch.testing.assert_close(alone, first[1:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("inversion", [Ddim(), NullText(inner_steps=2)])
def test_all_the_way_from_an_inversion_is_its_reconstruction(
    tiny_backbone: Backbone, requests: list[EditRequest], inversion: Inversion
) -> None:
    same = [EditRequest(image=r.image, source="a cat", target="a cat") for r in requests]
    found = edited(tiny_backbone, same, strength=1.0, inversion=inversion)
    inverted = inversion.invert(
        InversionRequest(
            backbone=tiny_backbone,
            images=pictures(same),
            prompts=("a cat",) * 2,
            steps=STEPS,
            guidance_scale=7.5,
        )
    )
    latents = reconstruct(tiny_backbone, inverted)
    with torch.no_grad():
        torch.testing.assert_close(found, tiny_backbone.decode(latents), rtol=1e-3, atol=1e-4)


def test_with_an_inversion_what_may_not_change_stays_on_its_trajectory(
    tiny_backbone: Backbone, requests: list[EditRequest]
) -> None:
    mask, seen = torch.zeros(32, 32), []
    mask[:, 16:] = 1
    inverted = Ddim().invert(
        InversionRequest(
            backbone=tiny_backbone,
            images=pictures(requests),
            prompts=tuple(str(one.source) for one in requests),
            steps=STEPS,
            guidance_scale=7.5,
        )
    )
    knobs = {"inversion": Ddim(), "mask": mask, "strength": 0.5}
    handle = tiny_backbone.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = edited(tiny_backbone, requests, **knobs)
    handle.remove()
    for i, rows in enumerate(seen[-STEPS // 2 :], start=STEPS // 2):
        torch.testing.assert_close(rows[:2, ..., :4], inverted.trajectory[i][..., :4])
    other = [replace(one, seed=one.seed + 10) for one in requests]
    assert torch.equal(edited(tiny_backbone, other, **knobs), found)


@pytest.mark.parametrize(
    ("inversion", "text"),
    [
        (Direct(), "a source that is put back onto its trajectory"),
        (Proximal(), "proximal guidance"),
        (EditFriendly(), "the noise of a source's steps"),
        (NullText(inner_steps=0, embedding="prompt"), "prompt embeddings for the source"),
        (NullText(inner_steps=0, for_targets=False), "null embeddings for the source alone"),
    ],
)
def test_an_inversion_of_which_a_part_would_be_lost_is_refused(
    tiny_backbone: Backbone, requests: list[EditRequest], inversion: Inversion, text: str
) -> None:
    with pytest.raises(ValueError, match=f"inversion finds {text}, but SdEdit draws no source"):
        edited(tiny_backbone, requests, inversion=inversion)


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"strength": 1.5}, "strength is 1.5; expected a number from 0 to 1"),
        ({"repeats": 0}, "repeats is 0"),
        ({"repeats": 2, "inversion": Ddim()}, "expected repeats to be 1"),
        (
            {"sampler": "euler_ancestral", "inversion": Ddim()},
            "sampler is 'euler_ancestral' and there is an inversion; expected 'ddim'",
        ),
        ({"space": "pixel"}, "space is 'pixel' without a mask"),
        ({"batch_size": 0}, "batch_size is 0; expected a whole number from 1 to"),
        ({"mask": torch.ones(1, 32, 32)}, r"mask has shape \(1, 32, 32\)"),
        ({"mask": torch.ones(16, 32)}, r"the mask is \(16, 32\), but an image is \(32, 32\)"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_backbone: Backbone, requests: list[EditRequest], knobs: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        edited(tiny_backbone, requests, **knobs)


def test_a_request_without_a_target_is_refused(tiny_backbone: Backbone) -> None:
    request = EditRequest(image=torch.zeros(3, 32, 32), instruction="make it red")
    with pytest.raises(ValueError, match="SdEdit needs the request's target"):
        SdEdit(backbone=tiny_backbone).edit([request])
