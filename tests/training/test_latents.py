"""Latents of before training are those of the images, survive a kill, and belong to one VAE."""

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

import training.latents.units
from data_gen.runs.config import ExecutorKnobs
from data_gen.runs.receipts import Unfinished
from data_gen.shards import ShardError, ShardIndex
from inference.backbone import load_backbone
from inference.images import from_numpy
from training.__main__ import main
from training.data.config import Framing
from training.data.data_module import PairData
from training.data.samples import Batch, posterior_noise
from training.latents.stage import latents

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


def reader(shards: Path, base: Path, **knobs) -> PairData:
    data = PairData(str(shards), batch_size=4, base=base, **{"held_out": 0.0, "seed": 3} | knobs)
    data.trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1
    )
    data.setup("fit")
    data.backbone = load_backbone(base)
    return data


def first_batches(data: PairData, count: int) -> list[Batch]:
    return [data.on_before_batch_transfer(b, 0) for b in islice(data.train_dataloader(), count)]


def contents(folder: Path) -> dict[str, bytes]:
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and "receipts" not in path.parts and path.suffix != ".lock"
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def encoded(shards: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("latents") / "set"
    latents(tiny_folder, output, str(shards), unit_size=7, batch_size=6)
    return output


def test_they_are_the_posterior_that_training_would_see(
    encoded: Path, shards: Path, tiny_folder: Path
) -> None:
    backbone = load_backbone(tiny_folder)
    index = ShardIndex(shards)
    pairs = {index[row].group: [] for row in range(len(index))}
    for row in range(len(index)):
        pairs[index[row].group].append(index.read(row))
    by_text = {some[0].triplet.instruction: some for some in pairs.values()}
    noises = []
    for batch in first_batches(reader(encoded, tiny_folder), 3):
        for text, edited, source, epoch, position in zip(
            batch.instructions,
            batch.edited,
            batch.source,
            batch.epochs,
            batch.positions,
            strict=True,
        ):
            candidates = by_text[text]
            conditions = [
                backbone.encode_condition(from_numpy(one.source)[None])[0] for one in candidates
            ]
            distances = [(source - condition).abs().max().item() for condition in conditions]
            pair = candidates[distances.index(min(distances))]
            assert min(distances) < 5e-3  # half precision
            noise = posterior_noise(3, epoch, position, shape=edited.shape)
            target = backbone.encode_image(from_numpy(pair.edited)[None], noise[None])[0]
            torch.testing.assert_close(edited, target, rtol=0, atol=5e-3)
            noises.append(noise)
    drawn = torch.stack(noises)
    assert abs(drawn.mean().item()) < 0.05
    assert abs(drawn.std().item() - 1) < 0.05


def test_a_target_is_drawn_anew_at_every_visit_and_alike_after_a_resume(
    encoded: Path, tiny_folder: Path
) -> None:
    six = first_batches(reader(encoded, tiny_folder), 6)
    texts = [text for batch in six for text in batch.instructions]
    targets = torch.cat([batch.edited for batch in six])
    again = texts.index(texts[0], 1)
    assert not torch.equal(targets[0], targets[again])
    resumed = reader(encoded, tiny_folder)
    resumed.load_state_dict({"position": 12})
    for a, b in zip(first_batches(resumed, 3), six[3:], strict=True):
        assert a[:3] == b[:3]
        assert torch.equal(a.edited, b.edited)
        assert torch.equal(a.source, b.source)


def test_captions_and_keys_are_those_of_the_pairs(
    encoded: Path, shards: Path, tiny_folder: Path
) -> None:
    index = ShardIndex(shards)
    pairs = {pair.key: pair for pair in map(index.read, range(len(index)))}
    data = reader(encoded, tiny_folder, held_out=0.3)
    held_out = data.held_out_pairs(12)
    assert held_out
    known = {pair.triplet.id: pair.triplet for pair in pairs.values()}
    for pair in held_out:
        expected = known[pair.triplet.id]
        assert pair.triplet.caption == expected.caption
        assert pair.triplet.edited_caption == expected.edited_caption
    for position, text in enumerate(first_batches(data, 1)[0].instructions):
        place, _, key = data.pairs.where(position).rpartition(" of ")
        assert pairs[key].triplet.instruction == text
        assert place.startswith(f"{encoded}: shards/")


def test_they_lead_backwards_too(encoded: Path, tiny_folder: Path) -> None:
    there = first_batches(reader(encoded, tiny_folder), 3)
    back = first_batches(reader(encoded, tiny_folder, backwards=1.0), 3)
    for a, b in zip(there, back, strict=True):
        names = zip(a.instructions, b.instructions, strict=True)
        assert all(x.split()[1] == y.split()[1] and x != y for x, y in names)
        assert not torch.equal(a.source, b.source)


def test_several_cuts_are_kept_and_drawn_from(
    shards: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    framing = Framing(resolution=16, enlarge_to=24, flip=True)
    latents(tiny_folder, tmp_path / "cuts", str(shards), framing=framing, variations=3)
    batches = first_batches(reader(tmp_path / "cuts", tiny_folder, framing=framing), 9)
    assert all(batch.edited.shape == (4, 4, 4, 4) for batch in batches)
    by_text: dict[str, set[tuple[int, ...]]] = {}
    for batch in batches:
        for text, sizes in zip(batch.instructions, batch.sizes.tolist(), strict=True):
            by_text.setdefault(text, set()).add(tuple(sizes))
            assert sizes[:2] == [32, 32]
            assert sizes[4:] == [16, 16]
    assert max(len(sizes) for sizes in by_text.values()) > 1


class KilledError(Exception):
    """Stands for a power cut."""


def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(
    encoded: Path,
    shards: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def until(killed_in: int) -> Callable[..., object]:
        original = training.latents.units.packed
        calls = iter(range(1, killed_in + 1))

        def dying(tensors):
            if next(calls) == killed_in:
                raise KilledError
            made.append("pair")
            return original(tensors)

        return dying

    output = tmp_path / "killed"
    for killed_in in (3, 10, 6):
        with monkeypatch.context() as patch:
            patch.setattr(training.latents.units, "packed", until(killed_in))
            with pytest.raises(KilledError):
                latents(tiny_folder, output, str(shards), unit_size=7, batch_size=6)
    latents(tiny_folder, output, str(shards), unit_size=7, batch_size=6)
    assert contents(output) == contents(encoded)
    assert len(made) == 2 + 9 + 5  # the second and third run found the units before them done
    with monkeypatch.context() as patch:
        patch.setattr(training.latents.units, "packed", None)
        latents(tiny_folder, output, str(shards), unit_size=7, batch_size=6)


def test_partitions_and_processes_make_the_same_bytes(
    encoded: Path,
    shards: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "shared"
    arguments = (tiny_folder, output, str(shards))
    knobs = {"unit_size": 7, "batch_size": 6}
    latents(*arguments, **knobs, partition="1/2")
    assert "2 units are left to other partitions" in capsys.readouterr().out
    assert not (output / "index.parquet").exists()
    threads = torch.get_num_threads()
    processes = ExecutorKnobs(kind="processes", workers=2, threads=threads)
    latents(*arguments, **knobs, partition="0/2", executor=processes)
    assert "latents of 18 pairs" in capsys.readouterr().out
    assert contents(output) == contents(encoded)


def test_a_scaling_factor_that_the_vae_does_not_name_is_diffusers_own(
    shards: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """The first folders of Stable Diffusion 1.5 do not."""
    shutil.copytree(tiny_folder / "vae", tmp_path / "base" / "vae")
    file = tmp_path / "base" / "vae" / "config.json"
    named = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in named.items() if k != "scaling_factor"}))
    latents(tmp_path / "base", tmp_path / "set", str(shards))
    metadata = pq.read_schema(tmp_path / "set" / "index.parquet").metadata
    assert json.loads(metadata[b"latents"])["scaling_factor"] == 0.18215


def test_a_unit_that_fails_is_told_and_made_again(
    encoded: Path,
    shards: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter(range(100))
    original = training.latents.units.packed

    def out_of_memory_once(tensors):
        if next(calls) == 8:
            raise RuntimeError("out of memory")
        return original(tensors)

    monkeypatch.setattr(training.latents.units, "packed", out_of_memory_once)
    output, knobs = tmp_path / "set", {"unit_size": 7, "batch_size": 6}
    failed = r"1 units failed, {'RuntimeError: out of memory': 7}: run again"
    with pytest.raises(Unfinished, match=failed):
        latents(tiny_folder, output, str(shards), **knobs)
    assert not (output / "index.parquet").exists()
    latents(tiny_folder, output, str(shards), **knobs)
    assert contents(output) == contents(encoded)
    assert next(calls) == 7 + 2 + 4 + 7  # the unit that failed, and no other, was made twice


def test_a_vae_on_a_cpu_keeps_its_memory(
    shards: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str | torch.device] = []
    monkeypatch.setattr(training.latents.units, "keep_memory", calls.append)
    latents(tiny_folder, tmp_path / "set", str(shards), device="cpu")
    assert [str(device) for device in calls] == ["cpu"]


def test_a_wrong_share_is_said_before_the_set_is_looked_for(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="partition must be i/n"):
        latents(tiny_folder, tmp_path / "set", "nowhere", partition="5/5")


def test_every_shard_that_is_short_is_listed(encoded: Path, tiny_folder: Path, tmp_path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(encoded, copy)
    short = sorted((copy / "shards").glob("*.tar"))[:2]
    for shard in short:
        shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ShardError, match=r"2 of \d+ shards cannot be read") as caught:
        reader(copy, tiny_folder)
    assert all(shard.name in str(caught.value) for shard in short)


def test_another_vae_another_framing_and_a_second_encoding_are_refused(
    encoded: Path, tiny_folder: Path, build_backbone, save_folder, tmp_path: Path
) -> None:
    other = build_backbone("v_prediction")
    with torch.no_grad():
        other.vae.encoder.conv_in.weight += 0.1
    save_folder(other, tmp_path / "other")
    with pytest.raises(ValueError, match=r"latents of another VAE \(.*\) than that of model.base"):
        reader(encoded, tmp_path / "other")
    with pytest.raises(ValueError, match=r"images cut as .* and data\.framing is .*resolution=16"):
        reader(encoded, tiny_folder, framing=Framing(resolution=16))
    with pytest.raises(ValueError, match="holds latents: set data.cache_latents to false"):
        reader(encoded, tiny_folder, cache_latents=True)


def test_the_commands_make_them_and_train_on_them(
    shards: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "latents"
    base = f"--base={tiny_folder}"
    with pytest.raises(SystemExit) as ending:
        main(["latents", base, f"--output={output}", f"--path={shards}", "--unit_size=7"])
    assert ending.value.code == 0
    assert "latents of 18 pairs" in capsys.readouterr().out
    main(
        [
            "fit",
            "--config=training/recipes/shapes.yaml",
            f"--output={tmp_path / 'run'}",
            f"--model.base={tiny_folder}",
            f"--data.shards={output}",
            "--data.cache_latents=false",
            "--data.batch_size=4",
            "--data.held_out=0.3",
            "--model.settings.steps=1",
            "--trainer.max_steps=2",
            "--trainer.accelerator=cpu",
            "--held_out_edits.every=2",
            "--held_out_edits.samples=2",
            "--held_out_edits.clip=inference/shapes/models/clip",
        ]
    )
    curve = pd.read_csv(tmp_path / "run" / "logs" / "version_0" / "metrics.csv")
    (direction,) = curve["held_out/directional_similarity"].dropna()
    assert direction != 0
    assert (tmp_path / "run" / "held-out" / "step-000002.png").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["exported_step"] == 2
    with pytest.raises(SystemExit) as ending:
        main(["latents", base, f"--output={output}", "--path=nowhere"])
    assert ending.value.code == 1
    assert "no index at nowhere" in capsys.readouterr().err
