"""How fast is it at Stable Diffusion 1.5's shape? The part `speed` of `gpu.py`.

Training, editing and rendering, each beside the product of matrices that the same card reaches in
the same run. FLOP are those of the UNet alone, a product and a sum counted as two.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from gpu_features import shape_of
from gpu_rows import Case, Found, Machine, NotRun
from gpu_training import editor_training, fit, latent_batch
from stable_diffusion import Shape, random_model
from torch.utils.flop_counter import FlopCounterMode

from data_gen.rendering.config import RenderKnobs
from data_gen.rendering.pairs import denoise_trees
from data_gen.rendering.trees import draw_tree
from data_gen.shapes import draw_triplets
from inference.backbone import Backbone
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.saving import save_backbone, stock_pipeline
from training.config import Speed
from training.data.data_module import PairData
from training.running.flops import peak_of, training_flops

FAST = Speed(channels_last=True, tf32=True)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done.

    Attributes:
        matrix: Side of the matrices that are multiplied.
        train: Side of the pictures in training, in pixels.
        batches: Pairs a step.
        loaded: Pairs a step where they are read from a disk, and where blocks are compiled.
        stored: Pairs on the disk.
        steps: Training steps that are timed, after as many that are not.
        edit: Side of the pictures that are edited or rendered, in pixels.
        edit_batches: Pictures edited at once.
        edit_steps: Denoising steps.
        rounds: Turns of each editor.
    """

    matrix: int = 8192
    train: int = 256
    batches: tuple[int, ...] = (64, 8, 16, 32, 128, 256)
    loaded: int = 64
    stored: int = 512
    steps: int = 8
    edit: int = 512
    edit_batches: tuple[int, ...] = (1, 8)
    edit_steps: int = 20
    rounds: int = 3


TINY = Sizes(
    matrix=256,
    train=32,
    batches=(2, 4),
    loaded=2,
    stored=4,
    steps=2,
    edit=32,
    edit_batches=(1, 2),
    edit_steps=2,
    rounds=2,
)


def cases(machine: Machine) -> Iterator[Case]:
    """All rows of the part, what is most worth knowing first."""
    sizes = TINY if machine.rehearse else Sizes()
    limit = functools.cache(functools.partial(matrix_product, machine, sizes.matrix))
    yield Case("bf16 product of matrices", functools.partial(product, machine, limit))
    for batch in sizes.batches:
        yield Case(
            f"training, {sizes.train} px, {batch} a step, latents in memory",
            functools.partial(trained, machine, sizes, limit, batch, FAST),
        )
    for batch in sizes.edit_batches:
        yield Case(
            f"edits, {sizes.edit} px, {sizes.edit_steps} steps, {batch} at once",
            functools.partial(edited, machine, sizes, batch),
        )
    yield Case(
        f"rendering, {sizes.edit} px, rows of the UNet",
        functools.partial(rendered, machine, sizes, limit),
    )
    yield Case(
        f"training, {sizes.train} px, {sizes.loaded} a step, compiled",
        functools.partial(
            trained, machine, sizes, limit, sizes.loaded, replace(FAST, compile=True)
        ),
    )
    for name, source in {"JPEGs": jpegs, "latents on the disk": stored_latents}.items():
        yield Case(
            f"training, {sizes.train} px, {sizes.loaded} a step, from {name}",
            functools.partial(trained_from, machine, sizes, limit, source),
        )
    yield Case(
        f"training, {sizes.train} px, beside diffusers' script",
        functools.partial(beside_script, machine, sizes),
    )


# ---------------------------------------------------------------- limits


def matrix_product(machine: Machine, side: int) -> float:
    """TFLOP/s of a product of two square matrices of random numbers in bf16."""
    left, right = (
        torch.randn(side, side, device=machine.device, dtype=torch.bfloat16) for _ in range(2)
    )
    for _ in range(3):
        left @ right
    count = 10
    seconds = machine.seconds(lambda: [left @ right for _ in range(count)])
    return count * 2 * side**3 / seconds / 1e12


def product(machine: Machine, limit: Callable[[], float]) -> Found:
    """What the card reaches, and what its data sheet says."""
    sheet = peak_of(machine.device)
    note = "" if sheet is None else f"{limit() / sheet:.0%} of the data sheet's {sheet:.0f}"
    return Found(value=limit(), unit="TFLOP/s", note=note)


def share(flops: float, machine: Machine, limit: Callable[[], float]) -> str:
    """FLOP a second in TFLOP/s, as shares of the product of matrices and of the data sheet."""
    sheet, reached = peak_of(machine.device), flops / 1e12
    said = f"{reached:.3g} TFLOP/s, {reached / limit():.1%} of the product"
    return said if sheet is None else f"{said}, MFU {reached / sheet:.1%}"


def forward_flops(backbone: Backbone, side: int) -> float:
    """FLOP of the UNet for one row."""
    config, height = backbone.unet.config, side // backbone.latent_factor
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        type(backbone.unet).from_config(config)(
            torch.empty(1, config.in_channels, height, height),
            torch.empty(1),
            encoder_hidden_states=torch.empty(1, backbone.text_length, config.cross_attention_dim),
        )
    return float(counter.get_total_flops())


# ---------------------------------------------------------------- training


class Pace(pl.Callback):
    """Seconds a step, from the first that counts to the end.

    Args:
        machine: Whose device is waited for.
        skip: Steps that do not count: they allocate, compile and choose kernels.
    """

    def __init__(self, machine: Machine, skip: int) -> None:
        self.machine, self.skip = machine, skip
        self.begun = self.seconds = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the time before the first step that counts."""
        if batch_idx == self.skip:
            self.machine.synchronise()
            self.begun = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the time after the last."""
        self.machine.synchronise()
        self.seconds = (time.perf_counter() - self.begun) / (trainer.global_step - self.skip)


def shape(machine: Machine) -> Shape:
    """Stable Diffusion 1.5's."""
    return shape_of(machine, "SD 1.5")


def trained(
    machine: Machine, sizes: Sizes, limit: Callable[[], float], batch: int, speed: Speed
) -> Found:
    """Pairs a second in bf16-mixed, from latents in memory."""
    model = random_model(shape(machine), device=machine.device)
    pace = Pace(machine, sizes.steps)
    fit(
        editor_training(model, speed=speed),
        latent_batch(model, batch, sizes.train),
        machine=machine,
        steps=2 * sizes.steps,
        precision="bf16-mixed",
        callbacks=[pace],
    )
    return pairs_a_second(machine, model, sizes, limit, batch / pace.seconds)


def pairs_a_second(
    machine: Machine, model: Backbone, sizes: Sizes, limit: Callable[[], float], rate: float
) -> Found:
    """The row of a rate of training."""
    with torch.device("meta"):
        config = {**model.unet.config, "in_channels": 8}
        blank = type(model.unet).from_config(config)
    side = sizes.train // model.latent_factor
    flops = training_flops(blank, height=side, width=side, text_length=model.text_length)
    return Found(value=rate, unit="pairs/s", note=share(rate * flops, machine, limit))


def trained_from(
    machine: Machine,
    sizes: Sizes,
    limit: Callable[[], float],
    source: Callable[[Machine, Sizes, Backbone, Path], Path],
) -> Found:
    """Pairs a second in bf16-mixed, read from a disk by worker processes."""
    model = random_model(shape(machine), device=machine.device)
    pace = Pace(machine, sizes.steps)
    with tempfile.TemporaryDirectory() as name:
        data = PairData(
            str(source(machine, sizes, model, Path(name))),
            batch_size=sizes.loaded,
            held_out=0.0,
            num_workers=0 if machine.rehearse else 8,
        )
        fit(
            editor_training(model, speed=FAST),
            latent_batch(model, sizes.loaded, sizes.train),
            machine=machine,
            steps=2 * sizes.steps,
            precision="bf16-mixed",
            callbacks=[pace],
            data=data,
        )
    return pairs_a_second(machine, model, sizes, limit, sizes.loaded / pace.seconds)


def jpegs(machine: Machine, sizes: Sizes, model: Backbone, folder: Path) -> Path:
    """Shards of pairs with a photograph's spectrum."""
    from loader import write_set

    data = folder / "data"
    data.mkdir()
    write_set(data, sizes.train, sizes.stored)
    return data


def stored_latents(machine: Machine, sizes: Sizes, model: Backbone, folder: Path) -> Path:
    """The same as the latents stage makes them."""
    from training.latents.stage import latents

    save_backbone(model, folder / "base")
    latents(
        base=folder / "base",
        output=folder / "latents",
        path=str(jpegs(machine, sizes, model, folder)),
        precision="bfloat16",
        device=str(machine.device),
        batch_size=32,
    )
    return folder / "latents"


def beside_script(machine: Machine, sizes: Sizes) -> Found:
    """How many times as fast as diffusers' script, from JPEGs; both as whole processes, in turn."""
    if machine.script is None:
        raise NotRun("no --script")
    from train_contestants import ours, theirs
    from train_set import Job, write_parquet

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(shape(machine))
        save_backbone(model, folder / "base")
        job = Job(
            base=folder / "base",
            data=jpegs(machine, sizes, model, folder),
            latents=folder / "latents",
            parquet=folder / "parquet",
            script=machine.script.absolute(),
            resolution=sizes.train,
            batch=sizes.loaded // 2,
            steps=3 * sizes.steps,
            skip=sizes.steps,
            precision="bf16-mixed",
            seed=0,
        )
        write_parquet(job)
        paces: dict[str, list[float]] = {"theirs": [], "ours": []}
        for number in range(2):
            for who, turn in {"theirs": theirs, "ours": ours}.items():
                with tempfile.TemporaryDirectory(dir=folder) as output:
                    paces[who].append(turn(job, Path(output), number).seconds)
    ratios = [slow / fast for slow, fast in zip(paces["theirs"], paces["ours"], strict=True)]
    note = f"{min(ratios):.2f} to {max(ratios):.2f}; {paces['ours'][-1]:.3f} s a step, ours"
    return Found(value=median(ratios), unit="times as fast", note=note)


# ---------------------------------------------------------------- editing and rendering


def edited(machine: Machine, sizes: Sizes, batch: int) -> Found:
    """Edits a second in bf16, beside the stock pipeline with the same sampler, in turn."""
    model = random_model(shape(machine), channels=8, device=machine.device, dtype=torch.bfloat16)
    for module in (model.unet, model.vae):
        module.to(memory_format=torch.channels_last)
    picture = torch.linspace(-1, 1, 3 * sizes.edit**2).view(3, sizes.edit, sizes.edit)
    requests = [
        EditRequest(image=picture, instruction="turn it upside down", seed=number)
        for number in range(batch)
    ]
    editor = Instruct(
        backbone=model, steps=sizes.edit_steps, resolution=sizes.edit, batch_size=batch
    )
    turns: dict[str, Callable[[], object]] = {
        "ours": lambda: editor.edit(requests),
        "stock": stock_editor(model, requests, sizes.edit_steps),
    }
    spent = interleaved(machine, turns, sizes.rounds)
    ratios = [slow / fast for slow, fast in zip(spent["stock"], spent["ours"], strict=True)]
    return Found(
        value=batch / median(spent["ours"]),
        unit="edits/s",
        note=f"{median(ratios):.2f} times the stock pipeline "
        f"({min(ratios):.2f} to {max(ratios):.2f})",
    )


def stock_editor(
    model: Backbone, requests: Sequence[EditRequest], steps: int
) -> Callable[[], object]:
    """The same edits by diffusers' pipeline."""
    from diffusers import EulerAncestralDiscreteScheduler

    pipeline: Any = stock_pipeline(model)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(model.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    images = torch.stack([request.image for request in requests if request.image is not None])
    return lambda: pipeline(
        prompt=[request.instruction for request in requests],
        image=images,
        num_inference_steps=steps,
        guidance_scale=model.settings.text_scale,
        image_guidance_scale=model.settings.image_scale,
        output_type="pt",
    )


def interleaved(
    machine: Machine, turns: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds that each takes, in turn; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, work in turns.items():
            seconds = machine.seconds(work)
            if number:
                spent[name].append(seconds)
    return spent


def rendered(machine: Machine, sizes: Sizes, limit: Callable[[], float]) -> Found:
    """Rows of the UNet a second while trees are rendered in bf16, decoding left out."""
    model = random_model(shape(machine), device=machine.device, dtype=torch.bfloat16)
    model.unet.to(memory_format=torch.channels_last)
    knobs = RenderKnobs(
        steps=sizes.edit_steps // 2 + 1, branches=4, size=sizes.edit, batch_rows=64, share="self"
    )
    trees = [draw_tree(triplet, 0, knobs) for triplet in draw_triplets(8, seed=4_000_000)]
    rows: list[int] = []
    denoise_trees(model, trees[:1], knobs)  # warms up
    seconds = machine.seconds(lambda: denoise_trees(model, trees, knobs, progress=rows.append))
    rate = sum(rows) / seconds
    flops = forward_flops(model, sizes.edit)
    return Found(value=rate, unit="rows/s", note=share(rate * flops, machine, limit))
