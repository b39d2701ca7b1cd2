"""Pairs with one layout, the second attending as the first; and the loss that sees them."""

import pytest
import torch

from inference.attention import RowSharing
from inference.shapes.captions import describes, parse
from training.shapes.architecture import new_scheduler
from training.shapes.batches import figure_cells
from training.shapes.diffusion import Guided, denoising_loss, tokenize
from training.shapes.layout import KEEPING_LAYOUT, draw_sharing, layout_pairs
from training.shapes.loop import generator
from training.shapes.scenes import picture, to_model
from training.shapes.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return layout_pairs(7, 20, tmp_path_factory.mktemp("cache"))


def places(scene):
    return sorted((figure.column, figure.row) for figure in scene.figures)


def test_no_figure_of_a_pair_moves(pairs):
    assert len(pairs.pairs) == 20
    assert {pair.edit.kind for pair in pairs.pairs} <= KEEPING_LAYOUT
    assert all(places(pair.source) == places(pair.edited) for pair in pairs.pairs)
    assert (pairs.pictures[6] == picture(pairs.pairs[3].source)).all()
    assert (pairs.pictures[7] == picture(pairs.pairs[3].edited)).all()


def test_a_batch_holds_source_and_target_in_turn_and_says_what_they_show(pairs):
    timesteps = torch.arange(100, 900, 50)
    rows, captions, drawn, sharing = draw_sharing(pairs, timesteps, generator(1), "k", 0.3)
    assert sharing == RowSharing(self_attention=tuple((row, row + 1) for row in range(0, 16, 2)))
    source, target = drawn[::2], drawn[1::2]
    assert torch.equal(target, timesteps[::2])
    assert bool((source <= target).all())
    assert bool((source >= 0.6 * target - 1).all())
    assert {row % 2 for row in rows[::2].tolist()} == {0, 1}  # both pictures serve as source
    for first, second in zip(rows[::2].tolist(), rows[1::2].tolist(), strict=True):
        assert {first, second} == {first // 2 * 2, first // 2 * 2 + 1}
    unsaid = [said == "" for said in captions]
    assert unsaid[::2] == unsaid[1::2]
    assert 0 < sum(unsaid) < len(unsaid)
    for row, said in zip(rows.tolist(), captions, strict=True):
        pair = pairs.pairs[row // 2]
        assert not said or describes(parse(said), pair.edited if row % 2 else pair.source)


def test_figures_and_a_cell_around_them_weigh_more(pairs):
    images = to_model(pairs.pictures[:4])
    cells = figure_cells(images)
    assert cells.shape == (4, 1, 16, 16)
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    figure = pairs.pairs[0].source.figures[0]
    assert cells[0, 0, figure.row, figure.column] == 1
    assert cells[0, 0, 0, 0] == 0
    assert cells[0].sum() > (images[0] != images[0, :, :1, :1]).any(0).sum() / 16


@torch.no_grad()
def test_the_weight_counts_only_where_little_noise_hides_the_figures(pairs):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    guided = Guided.untrained(tokenizer).eval()
    alphas = new_scheduler().alphas_cumprod
    figures = figure_cells(to_model(pairs.pictures[:2]))
    clean = 10 * figures.expand(2, 4, 16, 16)  # so that what weighs more is also what errs more
    noise = torch.randn(2, 4, 16, 16, generator=generator(3))
    weight = 1 + 4 * figures

    def loss(timestep, weight, sharing=None, placed=False):
        return denoising_loss(
            guided,
            clean=clean,
            tokens=tokenize(["a red circle", "a blue circle"], tokenizer),
            alphas=alphas,
            timesteps=torch.tensor([timestep, timestep]),
            noise=noise,
            weight=weight,
            placed=placed,
            sharing=sharing,
        )

    ones = torch.ones_like(weight)
    assert loss(999, weight).item() == pytest.approx(loss(999, ones).item(), rel=1e-3)
    assert loss(500, weight) < 1.02 * loss(500, ones)
    assert loss(100, weight) > 1.4 * loss(100, ones)
    assert loss(500, weight, placed=True) > 1.4 * loss(500, ones)
    assert loss(500, ones, RowSharing(self_attention=((0, 1),))) != loss(500, ones)
