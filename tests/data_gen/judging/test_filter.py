"""Which candidates are kept, and why the others are not."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_gen.judging.config import FilterKnobs, Thresholds
from data_gen.judging.filter import failing, judge, score, scored, select, thresholds_of
from data_gen.judging.surprise import surprise
from data_gen.records import EditTriplet, ImagePair, Scores, Verdict
from inference.clip import ClipScorer
from tests.conftest import BuildBackbone

TRIPLET = EditTriplet.of(
    caption="red",
    instruction="make it blue",
    edited_caption="blue",
    edit_type="recolour",
    inverse_instruction="make it red",
)
THRESHOLDS = Thresholds(image_image=0.7, text_source=0.2, text_edited=0.2, directional=0.2)


def scores(directional: float = 0.5, **others: float) -> Scores:
    values = {"image_image": 0.8, "text_source": 0.3, "text_edited": 0.3, **others}
    return Scores(directional=directional, **values)


def pair(seed: int, branch: int, given: Scores | None = None) -> ImagePair:
    return ImagePair(
        triplet=TRIPLET,
        key=ImagePair.key_of(TRIPLET.id, seed, branch),
        source=np.full((8, 8, 3), (200, 40 + seed, 10), np.uint8),
        edited=np.full((8, 8, 3), (40, 10 * branch, 200), np.uint8),
        seed_index=seed,
        branch=branch,
        p=0.5,
        guidance=5.0,
        scores=given,
    )


def kept(verdicts: list[Verdict]) -> list[tuple[int, int]]:
    return [(v.pair.seed_index, v.pair.branch) for v in verdicts if v.reason is None]


class ColourTower(nn.Module):
    """A CLIP whose feature of an image is its mean colour, and of a word that colour."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Parameter(torch.eye(3))
        self.images_seen = 0

    def encode_image(self, pixels: Tensor) -> Tensor:
        self.images_seen += len(pixels)
        return pixels.mean(dim=(2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.colours[tokens[:, 0]]


def colour_scorer(thresholds: Mapping[str, float] | None = None, length: int = 4) -> ClipScorer:
    def tokenizer(texts: list[str], context_length: int) -> Tensor:
        ids = {"red": 0, "green": 1, "blue": 2}
        rows = [[ids[text], *range(10, 13)][:context_length] for text in texts]
        for row in rows:
            row[-1] = 99
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])

    return ClipScorer(
        model=ColourTower(),
        tokenizer=tokenizer,
        context_length=length,
        size=(8, 8),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        thresholds=thresholds or {},
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (scores(), None),
        (scores(0.2, image_image=0.7, text_source=0.2, text_edited=0.2), None),
        (scores(0.19), "directional < 0.2"),
        (scores(image_image=0.69, text_edited=0), "image_image < 0.7"),
        (scores(text_source=0.1), "text_source < 0.2"),
        (scores(text_edited=0.1), "text_edited < 0.2"),
        (scores(math.nan), "directional < 0.2"),
    ],
)
def test_all_thresholds_must_be_reached(given: Scores, reason: str | None) -> None:
    assert judge(given, THRESHOLDS) == reason


def test_of_each_seed_the_best_p_and_of_these_the_best_are_kept() -> None:
    directional = {(0, 0): 0.3, (0, 1): 0.6, (1, 0): 0.5, (1, 1): 0.4, (2, 0): 0.9, (2, 1): 0.1}
    pairs = [pair(seed, branch, scores(value)) for (seed, branch), value in directional.items()]
    verdicts = select(pairs, THRESHOLDS, FilterKnobs(keep=2))
    assert [verdict.pair for verdict in verdicts] == pairs
    assert [verdict.reason for verdict in verdicts] == [
        "not the best p of its seed",
        None,
        "not among the best 2",
        "not the best p of its seed",
        None,
        "directional < 0.2",
    ]
    assert [verdict.outranked for verdict in verdicts] == [True, False, True, True, False, False]
    every_p = FilterKnobs(keep=3, best_p_per_seed=False)
    assert kept(select(pairs, THRESHOLDS, every_p)) == [(0, 1), (1, 0), (2, 0)]
    assert kept(select(pairs[:2], THRESHOLDS, every_p)) == [(0, 0), (0, 1)]


def test_closeness_prefers_what_changes_least_of_what_passes() -> None:
    changes = {(0, 0): 9, (0, 1): 5, (1, 0): 7, (1, 1): 1}
    pairs = [
        replace(
            pair(seed, branch, scores(0.1 if change == 1 else change / 10)),
            source=np.zeros((8, 8, 3), np.uint8),
            edited=np.full((8, 8, 3), change, np.uint8),
        )
        for (seed, branch), change in changes.items()
    ]
    closest = FilterKnobs(keep=1, prefer="closeness")
    assert kept(select(pairs, THRESHOLDS, closest)) == [(0, 1)]
    assert kept(select(pairs, THRESHOLDS, FilterKnobs(keep=1))) == [(0, 0)]


def test_a_better_candidate_that_fails_does_not_stand_in_the_way() -> None:
    pairs = [pair(0, 0, scores(0.9, image_image=0.1)), pair(0, 1, scores(0.3))]
    assert kept(select(pairs, THRESHOLDS, FilterKnobs())) == [(0, 1)]


def test_equal_candidates_rank_by_key_in_whatever_order_they_come() -> None:
    pairs = [pair(seed, branch, scores()) for seed in range(3) for branch in range(2)]
    knobs = FilterKnobs(keep=2)
    assert kept(select(pairs, THRESHOLDS, knobs)) == [(0, 0), (1, 0)]
    assert sorted(kept(select(pairs[::-1], THRESHOLDS, knobs))) == [(0, 0), (1, 0)]


def test_scores_are_the_scorers_and_every_image_is_encoded_once() -> None:
    first = pair(0, 0)
    second = ImagePair(**{**vars(pair(0, 1)), "source": first.source})
    scorer = colour_scorer()
    scored = score([first, second], scorer)
    assert isinstance(scorer.model, ColourTower)
    assert scorer.model.images_seen == 3
    for one in scored:
        source, edited = (
            F.normalize(torch.tensor(image[0, 0] / 255, dtype=torch.float32), dim=0)
            for image in (one.source, one.edited)
        )
        words = torch.tensor([-1.0, 0, 1])
        assert one.scores is not None
        expected = F.cosine_similarity(edited - source, words, dim=0)
        assert one.scores.directional == pytest.approx(float(expected), abs=1e-6)
        assert one.scores.text_edited == pytest.approx(float(edited[2]), abs=1e-6)
        assert one.scores.image_image == pytest.approx(float(source @ edited), abs=1e-6)


def test_thresholds_come_from_the_recipe_or_else_from_the_checkpoint() -> None:
    low = dict.fromkeys(vars(THRESHOLDS), -1.0)
    assert thresholds_of(FilterKnobs(), colour_scorer(low)) == Thresholds(**low)
    strict = Thresholds(**{**low, "image_image": 1.0})
    assert thresholds_of(FilterKnobs(thresholds=strict), colour_scorer(low)) == strict
    with pytest.raises(ValueError, match=r"expected \['directional'.*give pairs.filter.thresholds"):
        thresholds_of(FilterKnobs(), colour_scorer({"image_image": 0.5}))


def test_what_surprises_its_generator_is_turned_down(build_backbone: BuildBackbone) -> None:
    backbone = build_backbone()
    triplet = replace(TRIPLET, caption="red", edited_caption="blue")
    sides = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    candidate = replace(pair(0, 0), triplet=triplet, source=sides[0], edited=sides[1])
    low = Thresholds(image_image=-1, text_source=-1, text_edited=-1, directional=-1)
    found = max(surprise(backbone, sides, ["red", "blue"]))
    for most, reason in ((1.01 * found, None), (0.99 * found, f"surprise > {0.99 * found:g}")):
        knobs = FilterKnobs(thresholds=low, at_most={"surprise": most})
        [verdict] = select(scored([candidate], colour_scorer(), knobs, backbone), low, knobs)
        assert verdict.reason == reason
        assert verdict.pair.scores is not None
        assert verdict.pair.scores.surprise == pytest.approx(found, rel=1e-4)
    with pytest.raises(ValueError, match="a bound on surprise asks the generator"):
        scored([candidate], colour_scorer(), knobs, None)


def test_nothing_is_scored_as_nothing() -> None:
    assert scored([], colour_scorer(), FilterKnobs(at_most={"surprise": 0.1}), None) == []


def test_any_score_may_be_bounded_from_both_sides() -> None:
    low = Thresholds(image_image=-1, text_source=-1, text_edited=-1, directional=-1)
    knobs = FilterKnobs(at_least={"text_edited": 0.2, "dino": 0.5}, at_most={"image_image": 0.95})
    good = Scores(image_image=0.9, text_source=0.3, text_edited=0.3, directional=0.3, dino=0.6)
    assert failing(good, low, knobs) is None
    for change, reason in (
        ({"text_edited": 0.1}, "text_edited < 0.2"),
        ({"image_image": 0.96}, "image_image > 0.95"),
        ({"image_image": float("nan")}, "image_image < -1"),
        ({"dino": 0.4}, "dino < 0.5"),
        ({"dino": None}, "dino < 0.5"),
    ):
        assert failing(replace(good, **change), low, knobs) == reason
    assert failing(replace(good, dino=None), low, knobs, hopeful=True) is None


def test_an_unknown_score_is_told_with_the_known_ones() -> None:
    sentence = (
        "bounds dinosaur, which is no score; expected of image_image, .*, dino, judge, unsafe"
    )
    with pytest.raises(ValueError, match=sentence):
        FilterKnobs(at_least={"dinosaur": 1})


def test_thresholds_and_counts_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"directional is 20; expected a number from -1 to 1"):
        Thresholds(image_image=0.7, text_source=0.2, text_edited=0.2, directional=20)
    with pytest.raises(ValueError, match=r"FilterKnobs\.keep is 0; expected a whole number"):
        FilterKnobs(keep=0)
    with pytest.raises(ValueError, match=r"at_most\.surprise is nan; expected a finite number"):
        FilterKnobs(at_most={"surprise": float("nan")})
