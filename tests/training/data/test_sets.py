"""Several sets become one line: in exact proportion, within bounds, in any layout, any shape."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from data_gen.imports.config import Columns
from training.data.config import Framing, PairSet
from training.data.data_module import PairData
from training.data.samples import Batch


def reader(*sets: PairSet, root: Path | None = None, **knobs) -> PairData:
    data = PairData(sets=list(sets), batch_size=4, **{"held_out": 0.0, "seed": 3} | knobs)
    data.trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        max_steps=1,
        default_root_dir=root,
    )
    data.setup("fit")
    return data


def first_batches(data: PairData, count: int) -> list[Batch]:
    return list(islice(data.train_dataloader(), count))


def picture(number: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    width, height = size
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def write_jsonl(folder: Path, sizes: list[tuple[int, int]], name: str = "do") -> Path:
    """As the README shows it: pictures in folders, a line a pair."""
    lines = []
    for place in ("in", "out"):
        (folder / place).mkdir(parents=True)
    for number, size in enumerate(sizes):
        picture(number, size).save(folder / f"in/{number}.png")
        picture(1000 + number, size).save(folder / f"out/{number}.jpg", quality=95)
        line = {"source": f"in/{number}.png", "target": f"out/{number}.jpg"}
        lines.append(json.dumps({**line, "instruction": f"{name} {number}"}))
    (folder / "edits.jsonl").write_text("\n".join(lines))
    return folder / "edits.jsonl"


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "edits", [(32, 32)] * 6)


def test_sets_are_mixed_in_exact_proportion_each_in_its_own_order(
    shards: Path, jsonl: Path
) -> None:
    ours = PairSet(path=str(shards), weight=3)
    theirs = PairSet(path=str(jsonl), layout="jsonl", weight=1)
    mixed = first_batches(reader(ours, theirs), 12)
    texts = [text for batch in mixed for text in batch.instructions]
    for start in range(0, 48, 4):
        assert sum(text.startswith("do") for text in texts[start : start + 4]) == 1
    alone = [text for batch in first_batches(reader(ours), 9) for text in batch.instructions]
    assert [text for text in texts if text.startswith("make")] == alone
    assert Counter(text for text in texts if text.startswith("do")).most_common(1)[0][1] == 2


def test_without_weights_an_epoch_of_one_is_an_epoch_of_all(shards: Path, jsonl: Path) -> None:
    data = reader(PairSet(path=str(shards)), PairSet(path=str(jsonl), layout="jsonl"))
    texts = [text for batch in first_batches(data, 9) for text in batch.instructions]
    assert len(texts) == 36
    assert set(Counter(texts).values()) == {2}


@pytest.mark.parametrize("buckets", [False, True])
def test_mixed_and_bucketed_lines_resume_and_are_shared_by_ranks_and_workers(
    shards: Path, tmp_path: Path, buckets: bool
) -> None:
    path = write_jsonl(tmp_path / "odd", [(32, 32), (64, 32), (33, 66), (60, 34), (40, 40)] * 2)
    shape = {"bucket_multiple": 4} if buckets else {}
    knobs = {"framing": Framing(resolution=16, enlarge_to=20, flip=True, **shape)}
    sets = PairSet(path=str(shards), weight=1), PairSet(path=str(path), layout="jsonl", weight=2)
    whole = first_batches(reader(*sets, **knobs), 8)
    if buckets:
        assert len({batch.edited.shape for batch in whole}) > 1
    resumed = reader(*sets, **knobs)
    resumed.load_state_dict({"position": 20})
    for a, b in zip(first_batches(resumed, 3), whole[5:], strict=True):
        assert a[:3] == b[:3]
        assert torch.equal(a.edited, b.edited)
        assert torch.equal(a.source, b.source)
        assert torch.equal(a.sizes, b.sizes)
    data = reader(*sets, **knobs)
    for number, batch in enumerate(whole[:3]):  # what a rank reads is a part of the same batch
        half = [data.pairs[position] for position in range(4 * number + 2, 4 * number + 4)]
        assert [sample.instruction for sample in half] == batch.instructions[2:]
        assert torch.equal(torch.stack([sample.edited for sample in half]), batch.edited[2:])


def test_every_shape_is_seen_as_often_as_it_should_be(tmp_path: Path) -> None:
    sizes = [(32, 32)] * 6 + [(64, 32)] * 3 + [(32, 64)]
    path = write_jsonl(tmp_path / "odd", sizes)
    framing = Framing(resolution=16, bucket_multiple=4)
    data = reader(PairSet(path=str(path), layout="jsonl"), framing=framing)
    batches = first_batches(data, 10)
    assert set(Counter(text for batch in batches for text in batch.instructions).values()) == {4}
    for batch in batches:
        for text, size in zip(batch.instructions, batch.sizes.tolist(), strict=True):
            width, height = sizes[int(text.split()[1])]
            assert size[:2] == [height, width]
            assert tuple(size[4:]) == tuple(batch.edited.shape[2:])
            assert (width > height) == (size[5] > size[4])


def test_bounds_on_scores_choose_pairs_and_unknown_ones_are_named(shards: Path) -> None:
    everything = PairSet(path=str(shards), at_least={"directional": 0.4}, at_most={"p": 0.5})
    assert len(first_batches(reader(everything), 3)) == 3
    with pytest.raises(ValueError, match=r"of 18 pairs of .* not one has directional >= 0.41"):
        reader(PairSet(path=str(shards), at_least={"directional": 0.41}))
    with pytest.raises(ValueError, match=r"no score likeness; it has \['directional', 'guid"):
        reader(PairSet(path=str(shards), at_least={"likeness": 0.4}))
    with pytest.raises(ValueError, match="not one has surprise <= 1"):
        reader(PairSet(path=str(shards), at_most={"surprise": 1.0}))


def test_hub_data_sets_are_read_by_their_columns(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict(
        {
            "img_id": [str(number // 2) for number in range(8)],
            "source_img": [picture(number) for number in range(8)],
            "target_img": [picture(100 + number) for number in range(8)],
            "instruction": [f"paint {number}" for number in range(8)],
        }
    )
    for name in ("source_img", "target_img"):
        table = table.cast_column(name, datasets.Image())
    table.to_parquet(tmp_path / "magicbrush.parquet")
    columns = Columns(
        source="source_img", edited="target_img", instruction="instruction", group="img_id"
    )
    path = str(tmp_path / "magicbrush.parquet")
    (batch,) = first_batches(reader(PairSet(path=path, layout="magicbrush", columns=columns)), 1)
    numbers = [int(text.split()[1]) for text in batch.instructions]
    assert len({number // 2 for number in numbers}) == 4  # one edit of an image and epoch
    for number, edited, source in zip(numbers, batch.edited, batch.source, strict=True):
        assert np.array_equal(source.permute(1, 2, 0), np.asarray(picture(number)))
        assert np.array_equal(edited.permute(1, 2, 0), np.asarray(picture(100 + number)))
    with pytest.raises(ValueError, match=r"has no column \['edit_prompt'.*'source_img'"):
        reader(PairSet(path=path, layout="instructpix2pix-clip-filtered"))


def test_scores_come_with_the_share_of_the_samples_that_a_pair_makes_up(shards: Path) -> None:
    data = reader(PairSet(path=str(shards), weight=3), PairSet(path=str(shards), weight=1))
    scores, shares = data.scores("directional")
    assert len(scores) == len(shares) == 36
    assert (scores == 0.4).all()
    assert shares.sum().item() == pytest.approx(1)
    assert sorted(set(shares.tolist())) == pytest.approx([1 / 96, 1 / 48, 3 / 96, 3 / 48])
    (batch,) = first_batches(data, 1)
    assert batch.score("directional").tolist() == pytest.approx([0.4] * 4)
    assert batch.score("surprise").isnan().all()
    with pytest.raises(ValueError, match=r"score is 'p'; expected one of .*, judge, unsafe"):
        data.scores("p")
    with pytest.raises(ValueError, match="36 of the 36 pairs have no score 'surprise'"):
        data.scores("surprise")


def test_weights_of_some_sets_only_are_refused(shards: Path) -> None:
    one, other = PairSet(path=str(shards), weight=1), PairSet(path=str(shards))
    with pytest.raises(ValueError, match="have no weight, and other sets have"):
        reader(one, other)
    for knobs in ({}, {"shards": "a", "sets": [one]}, {"sets": []}):
        with pytest.raises(ValueError, match=r"expected data\.shards, or data\.sets"):
            PairData(**knobs)
