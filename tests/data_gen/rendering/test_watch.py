"""What is given up while trees are rendered, and that nothing else is changed by it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_gen.records import EditTriplet, ImageArray, ImagePair
from data_gen.rendering.grown import ENOUGH, NOT_FINITE
from data_gen.rendering.pairs import render_trees
from data_gen.rendering.prefix_tree import shared_steps, unet_rows
from data_gen.rendering.watch import Draft
from inference.backbone import Backbone
from inference.choices import SamplerName
from tests.data_gen.rendering.reference_renderer import (
    KNOBS,
    OTHERS,
    PS,
    SAMPLER_NAMES,
    STEPS,
    SWAP,
    tree,
)

BuildBackbone = Callable[..., Backbone]


class Watcher:
    """Gives up what it is told to, and remembers what it was shown."""

    def __init__(self, draft_at: float | None, keep: Callable[[Draft], bool]) -> None:
        self.draft_at, self.keep = draft_at, keep
        self.bad_sources: set[int] = set()
        self.shown: list[Draft] = []
        self.p_in_turn = False
        self.good: set[float] = set()  # the values of p that pass

    def sources(
        self, triplets: Sequence[EditTriplet], images: Sequence[ImageArray]
    ) -> list[str | None]:
        return ["bad source" if n in self.bad_sources else None for n in range(len(images))]

    def drafts(self, drafts: Sequence[Draft]) -> list[str | None]:
        self.shown += drafts
        return [None if self.keep(draft) else "bad draft" for draft in drafts]

    def passes(self, pairs: Sequence[ImagePair]) -> list[bool]:
        return [pair.p in self.good for pair in pairs]


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_what_is_given_up_changes_nothing_else(
    build_backbone: BuildBackbone, sampler: SamplerName
) -> None:
    backbone = build_backbone()
    knobs = replace(KNOBS, sampler=sampler)
    trees = [tree(), tree(OTHERS[0]), tree(OTHERS[2])]
    whole = render_trees(backbone, trees, knobs)
    every_other = iter(range(1000))
    watch = Watcher(0.5, keep=lambda _: next(every_other) % 2 == 0)
    watch.bad_sources = {1}
    rows: list[int] = []
    grown = render_trees(backbone, trees, knobs, watch=watch, progress=rows.append)
    assert not grown[1].pairs
    assert {lost.reason for lost in grown[1].given_up} == {"bad source"}
    finished = {pair.key: pair for one in grown for pair in one.pairs}
    lost = {one.key: one for tree_ in grown for one in tree_.given_up}
    assert {one.reason for one in lost.values()} == {"bad source", "bad draft"}
    for pair in (pair for one in whole for pair in one.pairs):
        assert (pair.key in finished) != (pair.key in lost)
        found = finished.get(pair.key) or lost[pair.key]
        assert (found.p, found.guidance, found.branch) == (pair.p, pair.guidance, pair.branch)
        if isinstance(found, ImagePair):
            np.testing.assert_allclose(found.edited.astype(int), pair.edited.astype(int), atol=1)
            np.testing.assert_array_equal(found.source, pair.source)
    # One source is given up before its targets, half of the other targets at their draft.
    assert sum(rows) < 3 * unet_rows(PS, STEPS) - (unet_rows(PS, STEPS) - 4 * STEPS)
    assert len(watch.shown) == 2 * len({shared_steps(p, STEPS) for p in PS})


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_p_in_turn_ends_at_the_largest_that_passes(
    build_backbone: BuildBackbone, sampler: SamplerName
) -> None:
    backbone, knobs = build_backbone(dtype=torch.float64), replace(KNOBS, sampler=sampler)
    trees = [tree(), tree(OTHERS[0], [0.1, 0.4]), tree(OTHERS[2], [0.2, 0.9])]
    whole = render_trees(backbone, trees, knobs)
    watch = Watcher(None, keep=lambda _: True)
    watch.p_in_turn, watch.good = True, {PS[4], 0.9}
    rows: list[int] = []
    grown = render_trees(backbone, trees, knobs, watch=watch, progress=rows.append)
    finished = [{pair.p for pair in one.pairs} for one in grown]
    assert finished == [{p for p in PS if p >= PS[4]}, {0.1, 0.4}, {0.9}]
    assert {lost.reason for one in grown for lost in one.given_up} == {ENOUGH}
    for one, all_of_it in zip(grown, whole, strict=True):
        wanted = {pair.key: pair for pair in all_of_it.pairs}
        for pair in one.pairs:
            np.testing.assert_array_equal(pair.edited, wanted[pair.key].edited)
        assert len(one.pairs) + len(one.given_up) == len(all_of_it.pairs)
    suffixes = [
        {shared_steps(lost.p, STEPS) for lost in one.given_up}
        - {shared_steps(pair.p, STEPS) for pair in one.pairs}
        for one in grown
    ]
    spared = sum(2 * (STEPS - fork) for some in suffixes for fork in some)
    assert spared > 0
    assert sum(rows) == sum(unet_rows(one.ps, STEPS) for one in trees) - spared


def test_a_late_draft_is_the_edited_image(build_backbone: BuildBackbone) -> None:
    """At the last step the model expects what then comes; before, something on the way there."""
    backbone = build_backbone()
    [whole] = render_trees(backbone, [tree()], replace(KNOBS, sampler="ddim"))
    errors = []
    for draft_at in (0.3, 0.99):
        watch = Watcher(draft_at, keep=lambda _: True)
        render_trees(backbone, [tree(ps=[0.0])], replace(KNOBS, sampler="ddim"), watch=watch)
        [draft] = watch.shown
        np.testing.assert_array_equal(draft.source, whole.pairs[0].source)
        difference = draft.edited.astype(int) - whole.pairs[0].edited
        errors.append(float(np.abs(difference).mean()))
    assert errors[1] < 0.1 < errors[0]


@pytest.mark.parametrize("draft_at", [None, 0.5])
def test_what_is_not_finite_is_given_up_alone(
    build_backbone: BuildBackbone, monkeypatch: pytest.MonkeyPatch, draft_at: float | None
) -> None:
    """Of three trees the second's source, and one picture of the first or of its draft."""
    trees = [tree(of, (0.2, 0.7)) for of in (SWAP, *OTHERS[:2])]
    whole = render_trees(build_backbone(), trees, KNOBS)
    decode, decoded = Backbone.decode, itertools.count()

    def overflowing(self: Backbone, latents: torch.Tensor, *, check: bool) -> torch.Tensor:
        images = decode(self, latents, check=check)
        return images * torch.nan if next(decoded) in (1, 3) else images

    monkeypatch.setattr(Backbone, "decode", overflowing)
    watch = Watcher(draft_at, keep=lambda _: True)
    grown = render_trees(build_backbone(), trees, KNOBS, watch=watch)
    assert [len(one.pairs) for one in grown] == [1, 0, 2]
    assert {lost.reason for one in grown for lost in one.given_up} == {NOT_FINITE}
    assert len(watch.shown) == (3 if draft_at else 0)  # of the four that have a source
    expected = {pair.key: pair for one in whole for pair in one.pairs}
    for pair in (pair for one in grown for pair in one.pairs):
        np.testing.assert_allclose(
            pair.edited.astype(int), expected[pair.key].edited.astype(int), atol=1
        )
