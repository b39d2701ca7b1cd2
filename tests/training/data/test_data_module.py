"""Batches are a function of the position, whoever reads them and wherever they begin."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from data_gen.imports.pairs import import_pairs
from data_gen.shards import ShardError, ShardIndex
from training.data.config import Framing
from training.data.data_module import PairData
from training.data.samples import Batch, collate


def reader(shards: Path, **knobs) -> PairData:
    data = PairData(shards, batch_size=4, **{"held_out": 0.0, "seed": 3} | knobs)
    data.trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        max_steps=1,
        default_root_dir=shards.parent,
    )
    data.setup("fit")
    return data


def first_batches(data: PairData, count: int) -> list[Batch]:
    return list(islice(data.train_dataloader(), count))


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a[:3] == b[:3]
        assert torch.equal(a.edited, b.edited)
        assert torch.equal(a.source, b.source)


def test_an_epoch_shows_every_group_once_and_the_next_one_in_another_order(shards: Path) -> None:
    six = first_batches(reader(shards), 6)
    said = [text for batch in six for text in batch.instructions]
    assert sorted(said[:12]) == sorted(said[12:])
    assert len(set(said[:12])) == 12
    assert said[:12] != said[12:]
    assert six[2].epochs + six[3].epochs == [0] * 4 + [1] * 4


def test_images_belong_to_their_instruction(shards: Path) -> None:
    expected = {"red": 0, "green": 1, "blue": 2}
    for batch in first_batches(reader(shards), 3):
        for text, edited, source in zip(
            batch.instructions, batch.edited, batch.source, strict=True
        ):
            brightest = int(edited[:, -1, -1].argmax())
            assert brightest == expected[text.split()[-1]]
            assert brightest != int(source[:, -1, -1].argmax())


@pytest.mark.parametrize("cached", [False, True])
def test_backwards_samples_lead_from_the_edited_image_to_the_source(
    shards: Path, cached: bool
) -> None:
    def prepared(backwards: float) -> PairData:
        data = reader(shards, backwards=backwards)
        if cached:
            data.pairs.cache(lambda edited, source: (edited, source), 5)
        return data

    for there, back in zip(
        first_batches(prepared(0.0), 3), first_batches(prepared(1.0), 3), strict=True
    ):
        assert torch.equal(there.edited, back.source)
        assert torch.equal(there.source, back.edited)
        names = list(zip(there.instructions, back.instructions, strict=True))
        assert all(a.split()[1] == b.split()[1] and a != b for a, b in names)


def test_resume_continues_with_the_next_batch(shards: Path) -> None:
    knobs = {"framing": Framing(resolution=16, enlarge_to=24, flip=True)}
    whole = first_batches(reader(shards, **knobs), 5)
    stopped = reader(shards, **knobs)
    for batch in whole[:2]:
        stopped.on_before_batch_transfer(batch, 0)
    resumed = reader(shards, **knobs)
    resumed.load_state_dict(stopped.state_dict())
    assert stopped.state_dict() == {"position": 8}
    assert_same(first_batches(resumed, 3), whole[2:])


def test_a_run_does_not_go_on_where_other_pairs_are_left_out(own_shards: Path) -> None:
    began = reader(own_shards, faulty="leave_out").state_dict()
    row = ShardIndex(own_shards)[0]
    shard = own_shards / row.shard
    whole = shard.read_bytes()
    end = row.input_offset + row.input_size
    shard.write_bytes(whole[: end - 2] + bytes(2) + whole[end:])  # the picture's end is gone
    now = reader(own_shards, faulty="leave_out")
    assert now.state_dict() != began
    now.load_state_dict(now.state_dict())
    with pytest.raises(ValueError, match="1 pairs are left out as faulty, expected those that"):
        now.load_state_dict(began)


@pytest.mark.slow
def test_workers_do_not_change_the_batches(shards: Path) -> None:
    alone = first_batches(reader(shards), 4)
    assert_same(first_batches(reader(shards, num_workers=2), 4), alone)


def test_cached_latents_are_those_of_the_images(shards: Path) -> None:
    plain, cached = reader(shards), reader(shards, cache_latents=True)
    cached.encode = lambda edited, source: (edited.float() / 2, source.float() / 4)
    for images, latents in zip(first_batches(plain, 4), first_batches(cached, 4), strict=True):
        assert images[:3] == latents[:3]
        assert torch.equal(images.edited.float() / 2, latents.edited)
        assert torch.equal(images.source.float() / 4, latents.source)


def test_held_out_groups_are_never_trained_on(shards: Path) -> None:
    data = reader(shards, held_out=0.3)
    kept = {pair.triplet.id for pair in data.held_out_pairs(12)}
    assert 0 < len(kept) < 12
    ((line, share),) = data.pairs.line.leaves()
    assert share == 1
    assert len(kept) + len(line.groups) == 12
    names = data.assembled.sources[0].reader.groups
    trained = {names[row] for row in line.groups.rows.tolist()}
    assert not kept & trained


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        reader(tmp_path / "nowhere")


def test_a_truncated_shard_is_found_at_the_start(own_shards: Path) -> None:
    shard = own_shards / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(ShardError, match=r"00001.tar is truncated: 4000 bytes of at least"):
        reader(own_shards)


def test_knobs_that_exclude_each_other_are_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"cache_latents is true, but framing\.flip"):
        PairData(shards, cache_latents=True, framing=Framing(flip=True))
    with pytest.raises(ValueError, match="holds no pair to train on"):
        reader(shards, held_out=0.999999)


def test_images_of_different_sizes_need_a_resolution(shards: Path) -> None:
    data = reader(shards)
    small = data.pairs[0]._replace(edited=torch.zeros(3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected one: set data.framing.resolution"):
        collate([small], 1)


def test_imported_pairs_are_read_but_not_backwards_without_an_inverse(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    lines = []
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        line = {"source": f"{number}.png", "target": f"{(number + 1) % 8}.png"}
        lines.append(json.dumps({**line, "instruction": f"do {number}"}))
    (tmp_path / "edits.jsonl").write_text("\n".join(lines))
    import_pairs("jsonl", tmp_path / "set", str(tmp_path / "edits.jsonl"))
    two = first_batches(reader(tmp_path / "set"), 2)
    assert {text for batch in two for text in batch.instructions} == {f"do {n}" for n in range(8)}
    with pytest.raises(ValueError, match=r"no inverse instruction.*set data\.backwards to 0"):
        first_batches(reader(tmp_path / "set", backwards=1.0), 1)
