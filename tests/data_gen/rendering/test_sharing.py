"""The larger p, the less changes that the edit does not concern: on the shipped base model."""

import numpy as np
import pytest

from data_gen.records import EditTriplet, ImagePair
from data_gen.rendering.config import RenderKnobs, Share
from data_gen.rendering.sharing import SharingStudy, change, study_sharing
from data_gen.shapes import draw_triplets, unconcerned_region
from inference.backbone import load_backbone
from inference.shapes import MODELS


@pytest.mark.parametrize("share", ["self", "cross"])
def test_shared_attention_halves_the_change_elsewhere(share: Share) -> None:
    # 200 triplets are in scripts/bench/RESULTS.md.
    knobs = RenderKnobs(share=share, steps=20, guidance_range=(3.0, 6.0), batch_rows=128)
    triplets = draw_triplets(12, seed=5_000_000)
    backbone = load_backbone(MODELS / "stable-diffusion")
    study = study_sharing(backbone, triplets, (0.0, 0.9), knobs, unconcerned_region)
    apart, together = study.mean()
    assert together < 0.5 * apart


def test_the_region_is_what_the_edit_leaves_alone() -> None:
    image = np.full((64, 64, 3), (40, 90, 210), dtype=np.uint8)
    image[20:40, 20:40] = (214, 39, 40)

    def region(edit_type: str) -> np.ndarray:
        triplet = EditTriplet.of(
            caption="a red square on a blue background",
            instruction="",
            edited_caption="",
            edit_type=edit_type,
            inverse_instruction="",
        )
        pair = ImagePair(
            triplet=triplet,
            key="",
            source=image,
            edited=image,
            seed_index=0,
            branch=0,
            p=0,
            guidance=1,
        )
        where = unconcerned_region(pair)
        assert where is not None
        return where

    background, figure = region("recolour"), region("background")
    assert background[5, 5]
    assert not background[18, 30]
    assert not background[30, 30]
    assert figure[30, 30]
    assert not figure[20, 30]
    assert not figure[5, 5]


def test_change_is_measured_within_the_region() -> None:
    source = np.zeros((4, 4, 3), dtype=np.uint8)
    edited = source.copy()
    edited[0] = 255
    where = np.zeros((4, 4), dtype=bool)
    where[:2] = True
    triplet = draw_triplets(1, seed=0)[0]
    pair = ImagePair(
        triplet=triplet,
        key="",
        source=source,
        edited=edited,
        seed_index=0,
        branch=0,
        p=0,
        guidance=1,
    )
    assert change(pair, where) == 1.0


def test_intervals_are_those_of_paired_trees() -> None:
    trees = np.array([[1.0, 0.5], [2.0, 1.0], [4.0, 2.0]])
    study = SharingStudy(ps=(0.0, 0.9), changes=trees, left_out=0)
    ratio, (low, high) = study.ratio()
    assert ratio == low == high == 0.5
    [(down, (least, most))] = study.steps_down()
    assert least < down < most < 0
