"""What Lightning's command line offers of this training: signatures of what a run is made of.

Each function makes a class of the same arguments, which is imported only then: it needs diffusers,
transformers and peft, and help and wrong options do not.
"""

from pathlib import Path

from pytorch_lightning import Callback, LightningDataModule, LightningModule

from inference.number_types import (
    Count,
    Fraction,
    FractionBelowOne,
    Positive,
    PositiveCount,
    Seed,
    SmallCount,
)
from inference.settings import Settings
from training.config import Lora, Objective, OptimizerKnobs, Speed
from training.data.config import Faulty, Framing, PairSet


def editor_training(
    base: Path,
    objective: Objective = Objective(),  # noqa: B008  (frozen)
    optimizer: OptimizerKnobs = OptimizerKnobs(),  # noqa: B008
    lora: Lora | None = None,
    ema_decay: FractionBelowOne = 0.9999,
    settings: Settings | None = None,
    speed: Speed = Speed(),  # noqa: B008
    seed: Seed = 0,
) -> LightningModule:
    """Trains an instruction-following editor from a text-to-image model (InstructPix2Pix).

    Args:
        base: A Stable Diffusion 1.x, 2.x or XL: a text-to-image model, or an editor to be
            trained further. A diffusers folder, a model that ships, or OWNER/NAME of the hub;
            `emend convert` makes a folder of a single file.
        objective: What is predicted and what an error costs.
        optimizer: AdamW and its learning rate.
        lora: Train low-rank adapters and the input layer; None trains all of the UNet.
        ema_decay: Highest decay of the moving average, which ramps up to it.
        settings: What the exported editor records beyond diffusers' configuration, such as its
            default scales and the factor on the latents of its image condition; None keeps
            the base's.
        speed: What makes a step faster or smaller.
        seed: Seed of the run, of which every draw is a function.
    """
    from training.module import EditorTraining

    return EditorTraining(
        base=base,
        objective=objective,
        optimizer=optimizer,
        lora=lora,
        ema_decay=ema_decay,
        settings=settings,
        speed=speed,
        seed=seed,
    )


def pair_data(
    shards: str | None = None,
    sets: list[PairSet] | None = None,
    batch_size: PositiveCount = 64,
    framing: Framing = Framing(),  # noqa: B008  (frozen)
    cache_latents: bool = False,
    held_out: FractionBelowOne = 0.02,
    backwards: Fraction = 0.0,
    window: PositiveCount = 4,
    num_workers: SmallCount = 0,
    faulty: Faulty = "refuse",
    cache: Path | None = None,
    cache_gib: Positive = 100.0,
    seed: Seed = 0,
    base: Path | None = None,
) -> LightningDataModule:
    """Batches of pairs from one data set or several.

    Args:
        shards: Folder or URL of the shards' `index.parquet`; the shards lie below it. They hold
            images, or what `python -m training latents` made of them.
        sets: In its place one data set or several, with layouts, weights and bounds of scores.
        batch_size: Pairs in a batch over all ranks.
        framing: How images are cut to size.
        cache_latents: Encode the whole set once at the start and keep it in memory, targets by
            the posterior's mean. Needs a framing without chance.
        held_out: Share of the groups, chosen by hash, that is never trained on.
        backwards: Share of the samples that lead from the edited image back to the source, by
            the inverse instruction; a pair that has none always leads forwards.
        window: Number of shards among which the order is mixed.
        num_workers: Processes that read; the order does not depend on it.
        faulty: Whether pairs that cannot be used are a reason to stop before the first step, or
            are left out. All of them are listed either way.
        cache: Folder in which shards behind a URL are kept; null reads them by byte ranges.
        cache_gib: What that folder may hold, in GiB.
        seed: Seed of the run, of which order and framing are functions.
        base: The base model, to whose VAE latents of before training must belong.
    """
    from training.data.data_module import PairData

    return PairData(
        shards=shards,
        sets=sets,
        batch_size=batch_size,
        framing=framing,
        cache_latents=cache_latents,
        held_out=held_out,
        backwards=backwards,
        window=window,
        num_workers=num_workers,
        faulty=faulty,
        cache=cache,
        cache_gib=cache_gib,
        seed=seed,
        base=base,
    )


def progress(peak_tflops: Positive | None = None) -> Callback:
    """A progress bar in images: how far, images a second, time left, step, loss and MFU.

    Args:
        peak_tflops: Of one device, in TFLOP/s, for the MFU; None looks it up by its name.
    """
    from training.running.progress import Progress

    return Progress(peak_tflops=peak_tflops)


def held_out_edits(
    every: PositiveCount = 500,
    samples: Count = 8,
    loss_samples: PositiveCount = 64,
    clip: str | None = None,
    shapes: bool = False,
) -> Callback:
    """Edits the same held-out images every so often, with the averaged weights.

    Args:
        every: Optimiser steps from one time to the next.
        samples: Number of held-out pairs that are edited, the same ones every time; 0 looks at
            none.
        loss_samples: Number of those whose loss is measured, by which the best checkpoint is
            told: many more, as a loss takes a fraction of an edit's time.
        clip: An open_clip folder, or a name that open_clip knows, to measure similarities with.
        shapes: Whether the pictures are of the shapes world, where an edit can be read off.
    """
    from training.running.held_out import HeldOutEdits

    return HeldOutEdits(
        every=every, samples=samples, loss_samples=loss_samples, clip=clip, shapes=shapes
    )


def checkpoints(every: PositiveCount = 100, keep: PositiveCount = 2) -> Callback:
    """Saves every so often, at a new best held-out loss, on request, and at the end of a run.

    Args:
        every: Optimiser steps from one checkpoint to the next.
        keep: How many of the latest to keep, beside the one of the lowest held-out loss.
    """
    from training.running.checkpoints import Checkpoints

    return Checkpoints(every=every, keep=keep)
