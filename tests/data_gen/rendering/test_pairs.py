"""The prefix tree renders what independent rendering does, at the cost that its formula says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st

from data_gen.records import EditTriplet
from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.pairs import denoise_trees, rejection, render_trees
from data_gen.rendering.prefix_tree import plan, shared_steps, steps_together, unet_rows
from data_gen.rendering.trees import Tree, draw_tree
from inference.backbone import Backbone, load_backbone
from inference.choices import SamplerName
from inference.compilation import WITHOUT_ATTENTION, compile_blocks
from inference.shapes import MODELS
from tests.data_gen.rendering.reference_renderer import (
    KNOBS,
    LONGER,
    OTHERS,
    PS,
    SAMPLER_NAMES,
    STEPS,
    SWAP,
    render_independently,
    tree,
    triplet,
)

BuildBackbone = Callable[..., Backbone]


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["fp64", "fp32"]
)


def largest_error(
    backbone: Backbone, of: Tree, share: Share, sampler: SamplerName, every: int = 1
) -> float:
    """How far a tree is from independent rendering: absolute in fp64, relative otherwise.

    Of all its branches, each ``every``-th is compared.
    """
    knobs = RenderKnobs(steps=STEPS, batch_rows=12, share=share, sampler=sampler)
    planned, latents = denoise_trees(backbone, [of], knobs)
    source, largest = latents[planned.source_of[0]], 0.0
    for p, state in list(zip(of.ps, planned.targets_of[0], strict=True))[::every]:
        target = latents[state]
        independent = render_independently(backbone, of, p, share, sampler)
        for found, wanted in zip((source, target), independent, strict=True):
            scale = 1.0 if wanted.dtype == torch.float64 else float(wanted.abs().max())
            largest = max(largest, float((found - wanted).abs().max()) / scale)
    return largest


@pytest.mark.parametrize(
    ("share", "of"),
    [("self", SWAP), ("cross", SWAP), ("cross", LONGER), ("both", SWAP), ("both", LONGER)],
    ids=["self", "cross", "cross-longer", "both", "both-longer"],
)
@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@PRECISIONS
def test_the_tree_equals_independent_rendering(
    build_backbone: BuildBackbone,
    share: Share,
    of: EditTriplet,
    sampler: SamplerName,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    backbone = build_backbone("v_prediction", dtype=dtype)
    assert largest_error(backbone, tree(of), share, sampler) < tolerance


@pytest.mark.parametrize("share", ["self", "cross", "both"])
def test_one_shared_step_more_is_another_image(build_backbone: BuildBackbone, share: Share) -> None:
    """So the comparison with independent rendering has teeth."""
    knobs = RenderKnobs(steps=STEPS, batch_rows=12, share=share)
    backbone = build_backbone("v_prediction", dtype=torch.float64)
    planned, latents = denoise_trees(backbone, [tree()], knobs)
    targets = latents[list(planned.targets_of[0])]
    for a, one in zip(PS, targets, strict=True):
        for b, other in zip(PS, targets, strict=True):
            same_steps = shared_steps(a, STEPS) == shared_steps(b, STEPS)
            assert bool((one - other).abs().max() < 1e-6) == same_steps


@pytest.mark.parametrize("share", ["self", "both"])
@PRECISIONS
def test_the_tree_of_an_sdxl_equals_independent_rendering(
    build_backbone: BuildBackbone, share: Share, dtype: torch.dtype, tolerance: float
) -> None:
    backbone = build_backbone(dtype=dtype, xl=True)
    assert largest_error(backbone, tree(LONGER), share, "euler_ancestral") < tolerance


GROWING = triplet("a red circle on a white background", "a red circle and a blue square on white")


def test_two_branches_equal_independent_rendering_on_the_shapes_model() -> None:
    backbone = load_backbone(MODELS / "stable-diffusion")
    assert largest_error(backbone, tree(GROWING, (0.31, 0.83)), "both", "euler_ancestral") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@PRECISIONS
def test_the_tree_equals_independent_rendering_on_the_shapes_model(
    sampler: SamplerName, dtype: torch.dtype, tolerance: float
) -> None:
    backbone = load_backbone(MODELS / "stable-diffusion", dtype=dtype)
    assert largest_error(backbone, tree(GROWING), "both", sampler) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("share", ["self", "both"])
@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@PRECISIONS
def test_the_tree_equals_independent_rendering_on_a_large_unet(
    build_backbone: BuildBackbone,
    share: Share,
    sampler: SamplerName,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """Stable Diffusion 1.5's UNet with random weights, a few steps of small latents."""
    small = build_backbone(dtype=dtype)
    torch.manual_seed(0)
    width = small.unet.config.cross_attention_dim
    unet = UNet2DConditionModel(sample_size=8, cross_attention_dim=width, attention_head_dim=8)
    backbone = replace(small, unet=unet.to(dtype).eval().requires_grad_(False))
    assert largest_error(backbone, tree(LONGER), share, sampler, every=3) < tolerance


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("together", [0.01, 0.35, 0.8])
def test_what_goes_together_at_first_equals_independent_rendering(
    build_backbone: BuildBackbone, sampler: SamplerName, together: float
) -> None:
    backbone = build_backbone("v_prediction", dtype=torch.float64)
    knobs = RenderKnobs(steps=STEPS, batch_rows=12, share="cross", sampler=sampler)
    own = tree(LONGER, together=together)
    others = [tree(of, PS[n:], together=n / 4) for n, of in enumerate(OTHERS)]
    rows: list[int] = []
    planned, latents = denoise_trees(backbone, [*others, own], knobs, progress=rows.append)
    assert sum(rows) == sum(unet_rows(t.ps, STEPS, t.together) for t in (*others, own))
    for p, state in zip(PS, planned.targets_of[-1], strict=True):
        source, target = render_independently(backbone, own, p, "cross", sampler)
        assert float((latents[planned.source_of[-1]] - source).abs().max()) < 1e-9
        assert float((latents[state] - target).abs().max()) < 1e-9
        assert float((target - source).abs().max()) > 1e-4


@pytest.mark.slow
def test_compiled_blocks_render_the_same_latents(build_backbone: BuildBackbone) -> None:
    knobs = RenderKnobs(steps=STEPS, batch_rows=12, share="cross")  # calls of many sizes
    _, wanted = denoise_trees(build_backbone(), [tree(LONGER)], knobs)
    backbone = build_backbone()
    compile_blocks(backbone.unet, WITHOUT_ATTENTION, dynamic=True)
    _, found = denoise_trees(backbone, [tree(LONGER)], knobs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_unet_rows_are_counted_as_the_formula_says(build_backbone: BuildBackbone) -> None:
    backbone = build_backbone()
    rows: list[int] = []
    reported: list[int] = []
    handle = backbone.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    knobs = RenderKnobs(steps=STEPS, batch_rows=12)
    denoise_trees(backbone, [tree(), tree(seed_index=1)], knobs, progress=reported.append)
    handle.remove()
    assert sum(rows) == sum(reported) == 2 * unet_rows(PS, STEPS)
    assert max(rows) <= knobs.batch_rows


def test_the_formula_is_that_of_the_design_where_steps_are_many() -> None:
    steps, ps = 10_001, [0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85]
    per_step = 2 + 2 * max(ps) + 2 * sum(1 - p for p in ps)
    assert unet_rows(ps, steps) / steps == pytest.approx(per_step, rel=1e-3)
    assert 4 * len(ps) / per_step == pytest.approx(2.74, abs=0.01)


@pytest.mark.parametrize("steps", [25, 50])
def test_a_candidate_costs_less_than_two_fifths_of_one_rendered_alone(steps: int) -> None:
    """The mean of 100 trees with k = 8; what gives the same image twice is counted once."""
    knobs = RenderKnobs(steps=steps, branches=8)
    fewer = []
    for seed_index in range(100):
        ps = draw_tree(SWAP, seed_index, knobs).ps
        candidates = len({shared_steps(p, steps) for p in ps})
        fewer.append(4 * steps * candidates / unet_rows(ps, steps))
    assert np.mean(fewer) >= 2.5


@pytest.mark.parametrize(
    ("p", "steps", "shared"), [(0, 25, 0), (0.5, 100, 50), (1.0, 100, 99), (1.1, 100, 100)]
)
def test_p_shares_the_steps_that_the_reference_shares(p: float, steps: int, shared: int) -> None:
    assert shared_steps(p, steps) == shared


@given(
    st.lists(st.lists(st.floats(0, 1.2), min_size=1, max_size=9), min_size=1, max_size=6),
    st.integers(1, 30),
    st.integers(2, 20),
    st.lists(st.floats(0, 0.99), min_size=6, max_size=6),
)
def test_a_plan_moves_every_state_once_a_step_and_no_call_is_too_large(
    trees: list[list[float]], steps: int, capacity: int, parts: list[float]
) -> None:
    together = parts[: len(trees)]
    planned = plan(trees, steps=steps, capacity=capacity, together=together)
    calls = [(i, call) for i in range(steps) for call in planned.root_calls(i)]
    calls += [(i, call) for i in range(steps) for call in planned.target_calls(i, planned.forks)]
    assert max(len(call.states) for _, call in calls) <= capacity
    assert 2 * sum(len(call.states) for _, call in calls) == sum(
        unet_rows(ps, steps, part) for ps, part in zip(trees, together, strict=True)
    )
    copied = {copy: (i, first) for i in range(steps) for first, copy in planned.copies_of(i)}
    moved = {(i, state) for i, call in calls for state in call.states}
    for number, ps in enumerate(trees):
        source, trunk = planned.source_of[number], planned.trunk_of[number]
        apart = steps_together(together[number], steps)
        assert all((i, source) in moved for i in range(steps))
        assert copied[trunk] == (apart, source)
        for p, target in zip(ps, planned.targets_of[number], strict=True):
            fork = max(apart, shared_steps(p, steps))
            if target != trunk and fork < steps:
                assert copied[target] == (fork, trunk if fork > apart else source)
            first = apart if target == trunk else fork
            assert all(((i, target) in moved) == (i >= first) for i in range(steps))
    sharing = {
        (i, call.states[source], call.states[trunk])
        for i, call in calls
        for source, trunk in zip(call.sources, call.trunks, strict=True)
    }
    assert sharing == {
        (i, planned.source_of[number], planned.trunk_of[number])
        for number, ps in enumerate(trees)
        for i in range(
            steps_together(together[number], steps), max(shared_steps(p, steps) for p in ps)
        )
    }


def test_at_p_0_source_and_target_are_two_generations_from_the_same_noise(
    build_backbone: BuildBackbone,
) -> None:
    backbone = build_backbone()
    planned, latents = denoise_trees(backbone, [tree(ps=[0.0])], KNOBS)
    reversed_triplet = triplet(SWAP.edited_caption, SWAP.caption)
    same_noise = EditTriplet(**{**vars(reversed_triplet), "id": SWAP.id})
    _, swapped = denoise_trees(backbone, [tree(same_noise, [0.0])], KNOBS)
    torch.testing.assert_close(latents.flip(0), swapped, rtol=1e-4, atol=1e-4)
    assert (latents[0] - latents[1]).abs().max() > 1e-2
    assert planned.targets_of == ((1,),)


@pytest.mark.parametrize("share", ["self", "cross"])
def test_equal_captions_give_equal_images(build_backbone: BuildBackbone, share: Share) -> None:
    knobs = RenderKnobs(steps=STEPS, batch_rows=12, share=share)
    same = triplet(SWAP.caption, SWAP.caption)
    [grown] = render_trees(build_backbone(), [tree(same, [1.1, 0.5, 0.0])], knobs)
    for pair in grown.pairs:
        np.testing.assert_allclose(pair.source.astype(int), pair.edited.astype(int), atol=1)


def test_a_tree_does_not_depend_on_its_company(build_backbone: BuildBackbone) -> None:
    backbone = build_backbone()
    [alone] = render_trees(backbone, [tree()], KNOBS)
    others = [tree(of, PS[n:]) for n, of in enumerate(OTHERS)]
    for trees, batch_rows in (([*others, tree()], 12), ([tree(), *others], 32)):
        knobs = replace(KNOBS, batch_rows=batch_rows)
        grown = render_trees(backbone, trees, knobs)[trees.index(tree())]
        for pair, wanted in zip(grown.pairs, alone.pairs, strict=True):
            assert (pair.key, pair.p, pair.guidance) == (wanted.key, wanted.p, wanted.guidance)
            np.testing.assert_allclose(pair.edited.astype(int), wanted.edited.astype(int), atol=1)


def test_rendering_again_gives_the_same_bits(build_backbone: BuildBackbone) -> None:
    trees = [tree(of) for of in (SWAP, *OTHERS)]
    first, second = (render_trees(build_backbone(), trees, KNOBS) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        for pair, again in zip(one.pairs, other.pairs, strict=True):
            assert (pair.source == again.source).all()
            assert (pair.edited == again.edited).all()


def test_without_guidance_a_state_costs_one_row(build_backbone: BuildBackbone) -> None:
    backbone = build_backbone()
    knobs = RenderKnobs(steps=STEPS, batch_rows=12, guidance_range=(1.0, 1.0), sampler="ddim")
    unguided = replace(tree(), guidance=1.0)
    nearly = replace(tree(), guidance=1.0 + 1e-9)
    results = []
    for one, per_state in ((unguided, 1), (nearly, 2)):
        rows: list[int] = []
        results += render_trees(backbone, [one], knobs, progress=rows.append)
        assert 2 * sum(rows) == per_state * unet_rows(PS, STEPS)
        assert max(rows) <= knobs.batch_rows
    for pair, other in zip(results[0].pairs, results[1].pairs, strict=True):
        np.testing.assert_allclose(pair.edited.astype(int), other.edited.astype(int), atol=1)


def test_draws_are_functions_of_triplet_seed_and_branch_within_their_ranges() -> None:
    knobs = RenderKnobs(branches=4, p_range=(0.1, 0.9), guidance_range=(2.0, 3.0))
    trees = [draw_tree(SWAP, seed, knobs) for seed in range(200)]
    assert trees == [draw_tree(SWAP, seed, knobs) for seed in range(200)]
    assert len({one.guidance for one in trees}) == len({one.ps for one in trees}) == 200
    assert all(2 <= one.guidance <= 3 for one in trees)
    for one in trees:
        assert [int((p - 0.1) / 0.2) for p in one.ps] == [0, 1, 2, 3]
    ps = np.sort([p for one in trees for p in one.ps])
    uniform = np.linspace(0.1, 0.9, len(ps))
    assert np.abs(ps - uniform).max() < 0.03


def test_few_steps_leave_few_values_of_p_and_each_is_taken_once() -> None:
    for steps, p_range, expected in (
        (4, (0.1, 0.9), [1, 2, 3]),
        (4, (0.0, 1.0), [0, 1, 2, 3]),
        (2, (0.3, 0.3), [1]),
        (1, (0.0, 1.0), [0, 1]),
    ):
        knobs = RenderKnobs(steps=steps, branches=8, p_range=p_range)
        ps = draw_tree(SWAP, 0, knobs).ps
        assert [shared_steps(p, steps) for p in ps] == expected
        assert all(p_range[0] <= p <= p_range[1] for p in ps)
    many = draw_tree(SWAP, 0, RenderKnobs(steps=20, branches=8)).ps
    assert len(many) == 8


def test_a_distilled_model_takes_a_single_step(build_backbone: BuildBackbone) -> None:
    knobs = RenderKnobs(steps=1, branches=4, p_range=(0, 1), guidance_range=(1, 1), batch_rows=4)
    [grown] = render_trees(build_backbone(), [draw_tree(SWAP, 0, knobs)], knobs)
    assert len(grown.pairs) == 2
    assert grown.pairs[0].edited is not grown.pairs[1].edited


def test_what_cannot_be_rendered_has_a_reason(build_backbone: BuildBackbone) -> None:
    backbone = build_backbone()
    long = triplet("cat " * 40, "a cat")
    assert rejection(backbone, SWAP) is None
    assert rejection(backbone, long) == "a caption exceeds 32 tokens"
    with pytest.raises(ValueError, match="a caption exceeds 32 tokens"):
        render_trees(backbone, [tree(SWAP), tree(long)], KNOBS)


def test_pairs_of_a_tree_share_their_source_and_equal_steps_their_image(
    build_backbone: BuildBackbone,
) -> None:
    [grown] = render_trees(build_backbone(), [tree(ps=[0.5, 0.2, 0.501])], KNOBS)
    pairs = grown.pairs
    assert {id(pair.source) for pair in pairs} == {id(pairs[0].source)}
    assert pairs[0].edited is pairs[2].edited is not pairs[1].edited
    assert pairs[0].source.shape == (32, 32, 3)
    assert pairs[0].source.dtype == np.uint8
    assert [pair.key for pair in pairs] == [f"{SWAP.id}-0-{branch}" for branch in range(3)]


def test_a_model_or_size_that_does_not_fit_is_named(build_backbone: BuildBackbone) -> None:
    with pytest.raises(ValueError, match="4 input channels, this one has 8"):
        render_trees(build_backbone(in_channels=8), [tree()], KNOBS)
    with pytest.raises(ValueError, match="multiple of 8 .*, got 36"):
        render_trees(build_backbone(), [tree()], RenderKnobs(size=36))
    [grown] = render_trees(build_backbone(), [tree(ps=[0.5])], RenderKnobs(steps=2, size=48))
    assert grown.pairs[0].edited.shape == (48, 48, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0; expected a whole number from 1"),
        ({"batch_rows": 2}, "batch_rows is 2; expected a whole number from 4"),
        ({"together": 1.0}, "together is 1.0; expected a number from 0 below 1"),
        ({"together_of": {"move": -1}}, "together_of.move is -1; expected"),
        ({"seeds_of": {"move": 0}}, "seeds_of.move is 0; expected"),
        ({"p_range": (0.9, 0.1)}, "expected two numbers, the lower one first"),
        (
            {"p_range": (3, 5)},
            "expected two numbers, the lower one first, each a number from 0 to 1",
        ),
    ],
)
def test_knobs_out_of_range_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RenderKnobs(**wrong)
