"""What is drawn is a function of the sample; the two predictions are one loss in two units."""

import math

import pytest
import torch

from inference.text import Text
from training.config import Objective
from training.data.order import batches
from training.objective import (
    Draws,
    add_noise,
    conditions_kept,
    draw,
    edit_loss,
    latent_weights,
    log_mean_weight,
    loss_weights,
    score_weights,
    target,
)

SHAPE = (4, 8, 8)
HALF = Objective(changed_share=0.5)


def some_draws(
    positions: list[int],
    *,
    seed: int = 7,
    epoch: int = 0,
    focus: float = 0.0,
    at: float = 0.4,
    **knobs: float,
) -> Draws:
    return draw(
        seed=seed,
        epochs=[epoch] * len(positions),
        positions=positions,
        shape=SHAPE,
        timesteps=1000,
        knobs=Objective(focus=focus, focus_at=at, **knobs),
    )


def test_a_sample_is_treated_alike_in_any_batch() -> None:
    whole = some_draws([0, 1, 2, 3])
    part = some_draws([3, 1])
    for all_rows, rows in zip(whole, part, strict=True):
        assert torch.equal(all_rows[[3, 1]], rows)


def test_seed_epoch_and_position_each_matter_and_the_global_generator_does_not() -> None:
    torch.manual_seed(0)
    here = some_draws([5]).noise
    torch.manual_seed(1)
    assert torch.equal(some_draws([5]).noise, here)
    for other in (some_draws([6]), some_draws([5], seed=8), some_draws([5], epoch=1)):
        assert not torch.equal(other.noise, here)


def test_draws_are_spread_as_they_should_be() -> None:
    draws = some_draws(list(range(2000)))
    assert 450 < draws.timesteps.float().mean() < 550
    assert draws.timesteps.min() < 10
    assert draws.timesteps.max() > 989
    assert abs(draws.noise.mean()) < 0.01
    assert abs(draws.noise.std() - 1) < 0.01


@pytest.mark.parametrize(("at", "low", "high"), [(0.4, 0.15, 0.6), (0.7, 0.4, 0.85)])
def test_focus_moves_timesteps_and_nothing_else(at: float, low: float, high: float) -> None:
    plain, focused = some_draws(list(range(2000))), some_draws(list(range(2000)), focus=1.0, at=at)
    for name in ("noise", "keep_text", "keep_image"):
        assert torch.equal(getattr(plain, name), getattr(focused, name))
    places = focused.timesteps.float() / 1000
    assert abs(places.median() - at) < 0.03  # the median of a logit-normal is that of its logit
    assert ((places > low) & (places < high)).float().mean() > 0.7
    assert focused.timesteps.min() >= 0
    assert focused.timesteps.max() < 1000


def test_one_draw_decides_both_conditions() -> None:
    uniform = torch.arange(100) / 100
    keep_text, keep_image = conditions_kept(uniform, 0.05)
    only_text_lost = ~keep_text & keep_image
    both_lost = ~keep_text & ~keep_image
    only_image_lost = keep_text & ~keep_image
    assert only_text_lost.nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert both_lost.nonzero().flatten().tolist() == [5, 6, 7, 8, 9]
    assert only_image_lost.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]


def test_images_need_not_be_dropped() -> None:
    uniform = torch.arange(100) / 100
    kept = conditions_kept(uniform, 0.05, drop_image=False)
    assert torch.equal(kept[0], conditions_kept(uniform, 0.05)[0])
    assert kept[1].all()


@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_conditions_are_dropped_in_equal_parts(count: int) -> None:
    drawn = draw(
        seed=7,
        epochs=[0] * count,
        positions=range(count),
        shape=(1, 1, 1),
        timesteps=1000,
        knobs=Objective(dropout=0.05),
    )
    deviation = math.sqrt(0.05 * 0.95 / count)
    for text, image in ((False, True), (False, False), (True, False)):
        share = ((drawn.keep_text == text) & (drawn.keep_image == image)).double().mean()
        assert abs(share - 0.05) < 4 * deviation


def test_conditions_are_dropped_exactly_at_the_edges() -> None:
    """Below p the text alone goes, from there both, from 2p on the image alone, to 3p."""
    at = 0.05 * torch.tensor([1, 2, 3], dtype=torch.float64)
    edges = torch.stack([torch.nextafter(at, torch.zeros_like(at)), at], dim=1).flatten()
    keep_text, keep_image = conditions_kept(edges, 0.05)
    assert keep_text.tolist() == [False, False, False, True, True, True]
    assert keep_image.tolist() == [True, False, False, False, False, True]


def test_ranks_draw_apart() -> None:
    shares = [next(batches(0, size=64, rank=rank, world=2)) for rank in (0, 1)]
    left, right = (some_draws(positions, dropout=1 / 6) for positions in shares)
    for name in Draws._fields:
        assert not torch.equal(getattr(left, name), getattr(right, name)), name
    whole = some_draws(list(range(64)), dropout=1 / 6)
    for name in Draws._fields:
        both = torch.cat([getattr(left, name), getattr(right, name)])
        assert torch.equal(both, getattr(whole, name))


def test_offset_noise_is_one_constant_a_channel_and_changes_nothing_else() -> None:
    plain, offset = some_draws(list(range(500))), some_draws(list(range(500)), offset_noise=0.1)
    for name in ("timesteps", "keep_text", "keep_image"):
        assert torch.equal(getattr(plain, name), getattr(offset, name))
    added = offset.noise - plain.noise
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), rtol=0, atol=1e-6)
    assert added[..., 0, 0].std() == pytest.approx(0.1, rel=0.1)


def test_weights_hold_where_there_is_nothing_but_noise_or_none() -> None:
    a = torch.tensor([0.0, 1.0], dtype=torch.float64)
    snr_5 = Objective(weighting="min_snr", min_snr_gamma=5)
    clamped = Objective(weighting="clamped_inverse_alpha", ceiling=20)
    assert loss_weights(a, "v_prediction", snr_5).tolist() == [0, 0]
    assert loss_weights(a, "v_prediction", clamped).tolist() == [0, 1]
    assert loss_weights(a[1:], "epsilon", snr_5).tolist() == [0]


def test_score_weights_are_exponential_with_mean_1() -> None:
    scores = torch.tensor([0.2, 0.3, 0.9], dtype=torch.float64)
    shares = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    for beta in (0.1, 1e-4):  # the latter overflows without logarithms
        weights = score_weights(scores, beta, log_mean_weight(scores, shares, beta))
        assert (weights * shares).sum() == pytest.approx(1)
    weights = score_weights(scores, 0.1, log_mean_weight(scores, shares, 0.1))
    assert weights[1] / weights[0] == pytest.approx(math.e)


def test_v_error_is_epsilon_error_over_the_root_of_alpha() -> None:
    latents, noise, guess = torch.randn(3, 5, *SHAPE, dtype=torch.float64)
    a = torch.tensor([0.01, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)
    x = add_noise(latents, noise, a)
    error_of_epsilon = guess - target(latents, noise, a, "epsilon")
    root, rest = a.sqrt()[:, None, None, None], (1 - a).sqrt()[:, None, None, None]
    v_of_guess = (guess - rest * x) / root  # v = (epsilon - sqrt(1 - a) x) / sqrt(a)
    error_of_v = v_of_guess - target(latents, noise, a, "v_prediction")
    torch.testing.assert_close(error_of_v, error_of_epsilon / root)


@pytest.mark.parametrize("weighting", ["min_snr", "clamped_inverse_alpha"])
def test_a_weighting_means_the_same_for_both_predictions(weighting: str) -> None:
    a = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    knobs = Objective(weighting=weighting)  # type: ignore[arg-type]
    of_epsilon = loss_weights(a, "epsilon", knobs)
    of_v = loss_weights(a, "v_prediction", knobs)
    torch.testing.assert_close(of_v / a, of_epsilon)


def test_weights_equal_their_published_forms() -> None:
    a = torch.tensor([0.001, 0.1, 0.5, 0.99], dtype=torch.float64)
    snr = a / (1 - a)
    none, snr_5 = Objective(), Objective(weighting="min_snr", min_snr_gamma=5)
    clamped = Objective(weighting="clamped_inverse_alpha", ceiling=20)
    assert loss_weights(a, "epsilon", none).tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(loss_weights(a, "v_prediction", snr_5), snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(loss_weights(a, "epsilon", clamped), (1 / a).clamp(max=20))


class Answering:
    """A UNet that always gives one answer and remembers what it was asked."""

    def __init__(self, answer: torch.Tensor) -> None:
        self.sample = answer

    def __call__(self, inputs, timesteps, encoder_hidden_states, added_cond_kwargs):
        self.inputs = inputs
        return self


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_right_answer_costs_nothing_and_a_dropped_image_is_zeros(prediction_type: str) -> None:
    draws = some_draws([0, 1])._replace(keep_image=torch.tensor([True, False]))
    edited, condition = torch.randn(2, 2, *SHAPE)
    alphas = torch.linspace(0.999, 0.001, 1000)
    answer = target(edited, draws.noise, alphas[draws.timesteps], prediction_type)  # type: ignore[arg-type]
    unet = Answering(answer)
    loss = edit_loss(
        unet,  # type: ignore[arg-type]
        edited=edited,
        condition=condition,
        text=Text(torch.zeros(2, 32, 32)),
        sizes=None,
        weights=torch.ones(2, 1, *SHAPE[1:]),
        draws=draws,
        alphas=alphas,
        prediction_type=prediction_type,  # type: ignore[arg-type]
        knobs=Objective(),
    )
    assert loss == 0
    assert torch.equal(unet.inputs[0, 4:], condition[0])
    assert not unet.inputs[1, 4:].any()


def test_a_changed_corner_makes_up_the_share_asked_for() -> None:
    source = torch.zeros(1, *SHAPE)
    edited = source.clone()
    edited[..., :2, :4] = 1.0  # 8 of 64 latents
    edited[..., 4:, 4:] = 0.1  # not enough to count
    weights = latent_weights(edited, source, HALF)
    assert weights[..., :2, :4].mean() == pytest.approx(0.5 / (8 / 64))
    assert weights[..., 2:, :].unique() == pytest.approx(0.5 / (56 / 64))
    assert weights.mean() == pytest.approx(1)
    assert torch.equal(weights, latent_weights(source, edited, HALF))
    assert latent_weights(edited, source, Objective()).unique() == 1


def test_a_tiny_change_does_not_drown_the_rest_nor_an_unchanged_picture_break() -> None:
    source = torch.zeros(2, *SHAPE)
    edited = source.clone()
    edited[0, :, 0, 0] = 1.0  # 1 of 64
    weights = latent_weights(edited, source, HALF)
    assert weights[0, 0, 0, 0] == pytest.approx(0.5 / 0.05)
    assert weights[1].unique() == pytest.approx(0.5 / 0.95)


def test_details_make_up_their_share_of_what_changes_and_of_what_stays() -> None:
    knobs = Objective(changed_share=0.5, detail_share=0.75)
    edited = torch.zeros(1, *SHAPE)
    edited[..., 1, 1] = edited[..., 5, 2] = 3.0  # each is the only detail within reach
    source = edited.clone()
    source[..., 4:, :] += 1.0  # the lower half changes
    weights = latent_weights(edited, source, knobs)
    for half in (weights[..., :4, :], weights[..., 4:, :]):
        # A latent and the eight around it differ from the mean of their surroundings.
        detailed = half == half.max()
        assert detailed.sum() == 9
        assert half[detailed].sum() / 64 == pytest.approx(0.5 * 0.75)
        assert half[~detailed].sum() / 64 == pytest.approx(0.5 * 0.25)
    alone = latent_weights(edited, source, Objective(detail_share=0.75))
    assert alone[weights == weights.max()].sum() / 64 == pytest.approx(0.75)


def test_weights_count_errors_where_they_are() -> None:
    draws = some_draws([0])
    alphas = torch.linspace(0.999, 0.001, 1000)
    unet = Answering(draws.noise.index_fill(-1, torch.tensor([0]), 5.0))
    weights = torch.ones(1, 1, *SHAPE[1:])
    losses = []
    for factor in (1.0, 3.0):
        weights[..., 0] = factor
        losses.append(
            edit_loss(
                unet,  # type: ignore[arg-type]
                edited=torch.zeros(1, *SHAPE),
                condition=torch.zeros(1, *SHAPE),
                text=Text(torch.zeros(1, 32, 32)),
                sizes=None,
                weights=weights,
                draws=draws,
                alphas=alphas,
                prediction_type="epsilon",
                knobs=Objective(),
            )
        )
    assert losses[1] == pytest.approx(3 * losses[0])


@pytest.mark.parametrize(
    ("knob", "value", "expected"),
    [
        ("dropout", 0.5, "from 0 to 0.333"),
        ("focus", 1.5, "from 0 to 1"),
        ("focus_at", 1.0, "above 0 below 1"),
        ("changed_share", 1.0, "above 0 below 1"),
        ("detail_share", 0.0, "above 0 below 1"),
        ("offset_noise", -0.1, "from 0 to"),
        ("score_beta", 0.0, "above 0 to"),
        ("min_snr_gamma", 0.0, "above 0 to"),
        ("ceiling", -1.0, "above 0 to"),
    ],
)
def test_a_knob_out_of_range_is_refused(knob: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"{knob} is {value}; expected a number {expected}"):
        Objective(**{knob: value})
