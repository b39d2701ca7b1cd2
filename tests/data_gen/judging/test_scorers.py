"""Scorers beside CLIP say what their models say, and refuse folders that are not theirs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import Dinov2Model

from data_gen.judging.aesthetic import Aesthetic
from data_gen.judging.config import FilterKnobs, Thresholds
from data_gen.judging.dino import Dino
from data_gen.judging.filter import select
from data_gen.judging.safety import Safety
from data_gen.judging.scorers import add_score
from data_gen.records import ImagePair, Scores
from inference.clip import load_clip
from inference.images import from_numpy
from inference.shapes import MODELS

CPU = torch.device("cpu")
GOOD = Scores(image_image=0.9, text_source=0.9, text_edited=0.9, directional=0.9)
LOW = Thresholds(image_image=-1, text_source=-1, text_edited=-1, directional=-1)


def test_the_less_pleasing_picture_counts(
    judged_pair: Callable[..., ImagePair], aesthetic_head: Callable[[int], Path]
) -> None:
    clip = load_clip(MODELS / "clip")
    pairs = [judged_pair(0, 1), judged_pair(2, 0), judged_pair(1, 2)]
    images = torch.stack([from_numpy(pair.source) for pair in pairs])  # 0, 2, 1
    features = clip.image_as_trained(images)
    head = aesthetic_head(features.shape[-1])
    tensors = load_file(head)
    zero, two, one = F.linear(features, tensors["layer.weight"], tensors["layer.bias"])[:, 0]
    expected = [min(zero, one), min(two, zero), min(one, two)]
    found = Aesthetic.load(head, clip)(pairs)
    assert found == pytest.approx([float(value) for value in expected], abs=1e-4)
    assert max(found) > min(found)


def test_a_head_for_another_clip_is_refused(aesthetic_head: Callable[[int], Path]) -> None:
    with pytest.raises(ValueError, match=r"'layer.weight': \(1, 7\).*expected a linear head"):
        Aesthetic.load(aesthetic_head(7), load_clip(MODELS / "clip"))


def test_dino_compares_cls_embeddings(
    judged_pair: Callable[..., ImagePair], dino_folder: Path
) -> None:
    pairs = [judged_pair(0, 0), judged_pair(0, 1), judged_pair(2, 1)]
    scorer = Dino.load(dino_folder, CPU)
    same, other, third = scorer(pairs)
    assert same == pytest.approx(1.0, abs=1e-5)
    assert other < 0.999
    stock = Dinov2Model.from_pretrained(dino_folder).eval()
    images = [pairs[2].source, pairs[2].edited]
    with torch.no_grad():
        pixels = scorer.processor(images=images, return_tensors="pt").pixel_values
        source, edited = stock(pixels).last_hidden_state[:, 0]
    assert third == pytest.approx(float(F.cosine_similarity(source, edited, dim=0)), abs=1e-5)


def test_a_weight_that_is_missing_is_not_made_up(dino_folder: Path, tmp_path: Path) -> None:
    tensors = load_file(dino_folder / "model.safetensors")
    del tensors["encoder.layer.1.norm1.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((dino_folder / name).read_bytes())
    with pytest.raises(
        ValueError, match="lacks the tensor encoder.layer.1.norm1.weight of a Dinov2Model"
    ):
        Dino.load(tmp_path, CPU)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="no model in"):
        Dino.load(tmp_path / "elsewhere", CPU)


def test_an_unsafe_picture_on_either_side_is_found(
    judged_pair: Callable[..., ImagePair], safety_folder: Callable[..., Path]
) -> None:
    scorer = Safety.load(safety_folder([1]), CPU)
    pairs = [judged_pair(0, 1), judged_pair(1, 2), judged_pair(0, 2), judged_pair(2, 0)]
    assert scorer(pairs) == [1.0, 1.0, 0.0, 0.0]


def test_further_scores_decide_and_an_unsafe_pair_is_called_unsafe(
    judged_pair: Callable[..., ImagePair],
) -> None:
    knobs = FilterKnobs(
        thresholds=LOW, at_least={"aesthetic": 5, "dino": 0.5, "judge": 0.6}, keep=9
    )

    def reason(**scores: float | None) -> str | None:
        pair = replace(judged_pair(0, 1), scores=replace(GOOD, **scores))
        [verdict] = select([pair], LOW, knobs)
        return verdict.reason

    assert reason(aesthetic=5.0, dino=0.5, judge=0.6, unsafe=0.0) is None
    assert reason(aesthetic=4.9, dino=0.5, judge=0.6) == "aesthetic < 5"
    assert reason(aesthetic=5.0, dino=float("nan"), judge=0.6) == "dino < 0.5"
    assert reason(aesthetic=5.0, dino=0.5, judge=0.59) == "judge < 0.6"
    assert reason(aesthetic=5.0, dino=0.5, judge=None) == "judge < 0.6"
    assert reason(aesthetic=1.0, dino=0.0, judge=0.0, unsafe=1.0) == "unsafe"
    unusable = replace(judged_pair(0, 1), scores=replace(GOOD, judge=float("nan")))
    [verdict] = select([unusable], LOW, FilterKnobs(thresholds=LOW))
    assert verdict.reason == "the judge gave no usable answer"


def test_a_score_is_added_to_what_clip_has_scored(
    judged_pair: Callable[..., ImagePair], dino_folder: Path
) -> None:
    scorer = Dino.load(dino_folder, CPU)
    [pair] = add_score([replace(judged_pair(0, 0), scores=GOOD)], scorer)
    assert pair.scores is not None
    assert (pair.scores.directional, pair.scores.aesthetic) == (0.9, None)
    assert pair.scores.dino == pytest.approx(1.0, abs=1e-5)
    assert add_score([], scorer) == []
