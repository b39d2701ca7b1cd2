"""Does every feature run on a GPU, and leave what it computes as it is? The part `features`.

Each is held against the plain way on the same device: on the shapes base, on Stable Diffusion 1.5's
shape, and on that of XL, with random weights.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from gpu_equality import distance
from gpu_rows import Case, Found, Machine
from gpu_training import (
    Run,
    apart,
    editor_training,
    fit,
    latent_batch,
    shapes_batch,
    step_of,
    write_pairs,
)
from stable_diffusion import SD15, SDXL, TINY_SD15, TINY_SDXL, Shape, random_model
from torch import Tensor

from data_gen.records import triplet_to_json
from data_gen.rendering.config import RenderKnobs
from data_gen.rendering.pairs import denoise_trees
from data_gen.rendering.trees import draw_tree
from data_gen.runs.config import ExecutorKnobs
from data_gen.shapes import draw_triplets
from inference.backbone import Backbone, load_backbone
from inference.compilation import WITHOUT_ATTENTION, compile_blocks
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.files import file_digest, write_lines
from inference.saving import save_backbone
from inference.shapes import MODELS
from training.config import Lora, Speed
from training.data.latent_shards import LatentPairs
from training.data.samples import Batch
from training.latents.stage import latents

STRATEGIES: Final = ("ddp", "fsdp2")
BF16_GRADIENT: Final = 0.3
"""A gradient is rounded once a layer, and once more on the way back."""


def cases(machine: Machine) -> Iterator[Case]:
    """All rows of the part, what is most worth knowing first."""
    for name in ("shapes", "SD 1.5"):
        yield from steps(machine, name)
        yield from renderings(machine, name)
    for strategy in STRATEGIES:
        yield Case(
            f"shapes: {strategy} on one rank, saved, killed, resumed, exported",
            functools.partial(one_rank, machine, MODELS / "stable-diffusion", strategy),
        )
    yield Case("latents stage, against the CPU's", functools.partial(latents_beside_cpu, machine))
    yield Case(
        "latents stage, executor processes", functools.partial(latents_by_processes, machine)
    )
    yield Case("pairs stage, executor processes", pairs_by_processes)
    yield from of_xl(machine)
    yield Case(
        "SD 1.5: fsdp2 on one rank, saved, resumed, exported",
        functools.partial(one_rank_of_sd15, machine),
    )


# ---------------------------------------------------------------- steps


def steps(machine: Machine, name: str) -> Iterator[Case]:
    """The gradient of a training step with each option, against that without."""
    model = functools.partial(base, machine, name)
    plain = functools.cache(functools.partial(gradient, machine, name))
    options: dict[str, tuple[float, dict[str, Any]]] = {
        "gradient checkpointing": (1e-3, {"speed": Speed(gradient_checkpointing=True)}),
        "channels_last": (1e-2, {"speed": Speed(channels_last=True)}),
        "compile": (1e-2, {"speed": Speed(compile=True)}),
        "bf16-mixed": (BF16_GRADIENT, {"precision": "bf16-mixed"}),
        "bf16-mixed, channels_last, compile": (
            BF16_GRADIENT,
            {"precision": "bf16-mixed", "speed": Speed(channels_last=True, compile=True)},
        ),
    }
    for option, (bound, given) in options.items():
        yield Case(
            f"{name}: a step with {option}",
            functools.partial(same_gradient, machine, name, plain, bound, given),
        )
    yield Case(f"{name}: 8-bit AdamW", functools.partial(eight_bit, machine, model, name))


def base(machine: Machine, name: str) -> Backbone:
    """A text-to-image model on the device."""
    if name == "shapes":
        return load_backbone(MODELS / "stable-diffusion", device=machine.device)
    return random_model(shape_of(machine, name), device=machine.device)


def shape_of(machine: Machine, name: str) -> Shape:
    """The shape of a model at random; tiny in a rehearsal."""
    real, tiny = {"SD 1.5": (SD15, TINY_SD15), "XL": (SDXL, TINY_SDXL)}[name]
    return tiny if machine.rehearse else real


def batch_for(machine: Machine, name: str, model: Backbone) -> Batch:
    """Two or four pairs of a size that suits the model."""
    if name == "shapes":
        return shapes_batch(4)
    return latent_batch(model, 2, 32 if machine.rehearse else 256)


def gradient(
    machine: Machine, name: str, precision: str = "32-true", **options: Any
) -> tuple[float, Tensor]:
    """Loss and gradient of one step."""
    model = base(machine, name)
    return step_of(model, batch_for(machine, name, model), machine, precision, **options)


def same_gradient(
    machine: Machine,
    name: str,
    plain: Callable[[], tuple[float, Tensor]],
    bound: float,
    given: dict[str, Any],
) -> Found:
    """How far a gradient is from the plain one; the losses are in the note."""
    (loss, expected), (other_loss, found) = plain(), gradient(machine, name, **given)
    return Found(
        value=distance(found, expected),
        unit="of the gradient",
        bound=bound,
        note=f"loss {other_loss:.6f}, plain {loss:.6f}",
    )


def eight_bit(machine: Machine, model: Callable[[], Backbone], name: str) -> Found:
    """How far the steps of 8-bit moments lead from those of 32 bits, by the way gone."""
    ends = {kind: trained(machine, model(), name, kind) for kind in ("adamw_8bit", "adamw")}
    start, small, plain = (ends["adamw"][0], *(end[1] for end in ends.values()))
    return Found(
        value=float((small - plain).norm() / (plain - start).norm()),
        unit="of the way",
        bound=0.15,
    )


def trained(machine: Machine, model: Backbone, name: str, kind: str) -> tuple[Tensor, Tensor]:
    """The large weights of a UNet before and after three steps.

    Of small ones the moments stay at 32 bits.
    """
    module = editor_training(model, kind=kind)
    weights = [p for p in module.unet.parameters() if p.numel() >= 4096][:20]
    before = torch.cat([p.detach().flatten().cpu() for p in weights])
    fit(module, batch_for(machine, name, model), machine=machine, steps=3)
    return before, torch.cat([p.detach().flatten().cpu() for p in weights])


# ---------------------------------------------------------------- rendering and editing


def renderings(machine: Machine, name: str) -> Iterator[Case]:
    """Trees rendered with each option, against those without."""
    plain = functools.cache(functools.partial(tree, machine, name))
    options: dict[str, tuple[float, dict[str, Any]]] = {
        "channels_last": (1e-2, {"channels_last": True}),
        "compile": (1e-2, {"compiled": True}),
        "bf16": (0.3, {"dtype": torch.bfloat16}),
    }
    for option, (bound, given) in options.items():
        yield Case(
            f"{name}: trees rendered with {option}",
            functools.partial(same_tree, machine, name, plain, bound, given),
        )


def tree(
    machine: Machine,
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compiled: bool = False,
) -> Tensor:
    """Clean latents of a tree."""
    model = base(machine, name)
    for module in model.modules.values():
        module.to(dtype)
    if channels_last:
        model.unet.to(memory_format=torch.channels_last)
    if compiled:
        compile_blocks(model.unet, WITHOUT_ATTENTION, dynamic=True)
    knobs = RenderKnobs(share="both", steps=4, branches=2, guidance_range=(3.0, 6.0))
    trees = [draw_tree(draw_triplets(1, seed=4_000_000)[0], 0, knobs)]
    return denoise_trees(model, trees, knobs)[1].float().cpu()


def same_tree(
    machine: Machine, name: str, plain: Callable[[], Tensor], bound: float, given: dict[str, Any]
) -> Found:
    """How far latents are from the plain ones."""
    found = tree(machine, name, **given)
    return Found(value=distance(found, plain()), unit="of the norm", bound=bound)


def of_xl(machine: Machine) -> Iterator[Case]:
    """XL's shape: rendering and editing in bf16, and adapters in bf16-mixed."""
    plain = functools.cache(functools.partial(tree, machine, "XL"))
    bf16 = {"dtype": torch.bfloat16}
    yield Case(
        "XL: trees rendered with bf16",
        functools.partial(same_tree, machine, "XL", plain, 0.3, bf16),
    )
    yield Case("XL: an edit in bf16", functools.partial(xl_edit, machine))
    lora = {"lora": Lora(rank=4)}
    adapters = functools.cache(functools.partial(gradient, machine, "XL", **lora))
    given = {
        **lora,
        "precision": "bf16-mixed",
        "speed": Speed(gradient_checkpointing=True, channels_last=True),
    }
    yield Case(
        "XL: a step of LoRA, bf16-mixed, gradient checkpointing",
        functools.partial(same_gradient, machine, "XL", adapters, BF16_GRADIENT, given),
    )


def xl_edit(machine: Machine) -> Found:
    """How far an edit in bf16 is from that in float32, by its pictures."""
    model = random_model(shape_of(machine, "XL"), channels=8, device=machine.device)
    side = model.native_size
    image = torch.linspace(-1, 1, 3 * side * side).view(3, side, side)
    request = EditRequest(image=image, instruction="turn it upside down")
    pictures = []
    for dtype in (torch.float32, torch.bfloat16):
        for module in model.modules.values():
            module.to(dtype)
        pictures.append(Instruct(backbone=model, steps=2).edit([request])[0])
    plain, found = pictures
    return Found(value=distance(found, plain), unit="of the norm", bound=0.3)


# ---------------------------------------------------------------- stages and runs


def one_rank(machine: Machine, model: Path, strategy: str) -> Found:
    """How far the end of a run under a strategy, killed and resumed, is from that of a plain one.

    Gradients are summed in another order, so by rounding. The exported folder is loaded again.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = Run(
            base=model,
            pairs=write_pairs(folder / "data", 12),
            output=folder / "plain",
            machine=machine,
            more=("--trainer.deterministic=true",),
        )
        shared = replace(
            plain, output=folder / strategy, more=(*plain.more, f"--trainer.strategy={strategy}")
        )
        shared.killed_at(4)
        ends = [torch.cat([w.flatten() for w in run().values()]) for run in (plain, shared)]
        load_backbone(shared.model, device=machine.device)
    return Found(value=distance(ends[1], ends[0]), unit="of the weights", bound=1e-4)


def one_rank_of_sd15(machine: Machine) -> Found:
    """The same with all weights of Stable Diffusion 1.5's shape, stopped after a checkpoint."""
    shape = shape_of(machine, "SD 1.5")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(shape, device=machine.device)
        save_backbone(model, folder / "base")
        side = model.latent_factor * shape.latents // 2
        run = Run(
            base=folder / "base",
            pairs=write_pairs(folder / "data", 8),
            output=folder / "run",
            machine=machine,
            steps=3,
            more=(
                f"--data.framing.resolution={side}",
                "--trainer.strategy=fsdp2",
                "--trainer.precision=bf16-mixed",
            ),
        )
        del model
        run.killed_at(3)
        weights = run()
        exported = load_backbone(run.model).unet.state_dict()
        averages = {n.partition(".")[2]: w for n, w in weights.items() if n.startswith("average.")}
    return Found(value=apart(averages, exported), unit="exported numbers differ", bound=0)


def latents_beside_cpu(machine: Machine) -> Found:
    """How far latents of the stage are from those that a CPU makes."""
    with tempfile.TemporaryDirectory() as name:
        here, there = (
            latents_of(encode(Path(name), str(device))) for device in ("cpu", machine.device)
        )
    return Found(value=distance(there, here), unit="of the norm", bound=5e-3)


def latents_by_processes(machine: Machine) -> Found:
    """Shards that differ between a stage in this process and one in spawned ones."""
    with tempfile.TemporaryDirectory() as name:
        folder, device = Path(name), str(machine.device)
        return shards_apart(encode(folder, device), encode(folder, device, "processes"))


def encode(
    folder: Path, device: str, kind: Literal["in_process", "processes"] = "in_process"
) -> Path:
    """Encode twelve pairs in units of six; the folder of the latents."""
    pairs = folder / "data" / "pairs.jsonl"
    output = folder / f"{device.replace(':', '-')}-{kind}"
    latents(
        base=MODELS / "stable-diffusion",
        output=output,
        path=str(pairs if pairs.is_file() else write_pairs(pairs.parent, 12)),
        layout="jsonl",
        unit_size=6,
        device=device,
        executor=executor(kind),
    )
    return output


def latents_of(folder: Path) -> Tensor:
    """All means of a set of latents."""
    pairs = LatentPairs(str(folder))
    return torch.stack([pairs.latents(row)[1]["edited.mean"].float() for row in range(len(pairs))])


def pairs_by_processes() -> Found:
    """Shards that differ between rendering and judging in this process and in spawned ones."""
    with tempfile.TemporaryDirectory() as name:
        here, there = rendered(Path(name, "here"), "in_process"), Path(name, "there")
        return shards_apart(here, rendered(there, "processes"))


def rendered(folder: Path, kind: Literal["in_process", "processes"]) -> Path:
    """Render and judge a few triplets of the shapes world; the folder of the data set."""
    from data_gen.recipe import PairKnobs, Recipe
    from data_gen.stages import make_pairs

    triplets = draw_triplets(4, seed=4_000_000)
    write_lines(folder / "triplets.jsonl", map(triplet_to_json, triplets))
    make_pairs(
        Recipe(
            output=folder,
            pairs=PairKnobs(
                render=RenderKnobs(
                    share="cross",
                    sampler="ddim",
                    steps=12,
                    seeds=1,
                    branches=2,
                    p_range=(0.5, 0.95),
                    guidance_range=(3.0, 6.0),
                ),
                unit_size=2,
            ),
            executor=executor(kind),
        )
    )
    return folder


def executor(kind: Literal["in_process", "processes"]) -> ExecutorKnobs:
    """In this process, or in one spawned process."""
    return ExecutorKnobs(kind=kind, workers=1 if kind == "processes" else None)


def shards_apart(one: Path, other: Path) -> Found:
    """How many shards two data sets do not share byte for byte."""
    digests = [
        {(path.name, file_digest(path)) for path in folder.glob("shards/*.tar")}
        for folder in (one, other)
    ]
    if not digests[0]:
        raise RuntimeError(f"{one} has no shards")
    return Found(value=float(len(digests[0] ^ digests[1])), unit="shards differ", bound=0)
