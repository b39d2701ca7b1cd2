"""Does a GPU compute what a CPU does? The part `equality` of `gpu.py`.

Every case runs on the CPU in float32 once, and on the device in float32 with TF32 off, with TF32
on, and in bfloat16. What is compared are latents, pictures and gradients as a whole: the norm of
the difference over that of the reference. Bounds are what rounding may do over a trajectory, three
times what bfloat16 does on a CPU; a wrong sign or a stale row is far beyond them.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast, get_args

import torch
from gpu_rows import Case, Found, Machine
from gpu_training import Run, apart, shapes_batch, step_of, write_pairs
from torch import Tensor

from data_gen.rendering.config import RenderKnobs
from data_gen.rendering.pairs import denoise_trees
from data_gen.rendering.trees import draw_tree
from data_gen.shapes import draw_triplets
from inference.backbone import Backbone, load_backbone
from inference.choices import SamplerName
from inference.editors.config import Blend
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.images import from_numpy
from inference.inversion.inverted import InversionRequest, reconstruct
from inference.inversion.null_text import NullText
from inference.shapes import MODELS
from inference.shapes.evaluation import draw_trials
from inference.shapes.render import render
from training.config import Speed

SOURCE: Final = "a large red circle on the left and a small blue star on a white background"
TARGET: Final = SOURCE.replace("blue star", "striped green star")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and in what a case is computed.

    Attributes:
        name: What the row says of it.
        device: Of models and tensors.
        dtype: Of the weights.
        tf32: Whether float32 may be multiplied with 10 bits of mantissa.
        bound: What the relative difference to the reference may be.
    """

    name: str
    device: torch.device
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    bound: float = 0.0


REFERENCE: Final = Place(name="CPU", device=torch.device("cpu"))


def places(machine: Machine) -> list[Place]:
    """What is held against the reference."""
    plain = Place(name="fp32", device=machine.device, bound=2e-3)
    return [
        plain,
        replace(plain, name="fp32, TF32 on", tf32=True, bound=2e-2),
        replace(plain, name="bf16", dtype=torch.bfloat16, bound=0.12),
    ]


@contextmanager
def placed(place: Place) -> Iterator[None]:
    """Multiply float32 as a place says."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = place.tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def cases(machine: Machine) -> Iterator[Case]:
    """All rows of the part."""
    for name, compute in computed(machine).items():
        reference = functools.cache(functools.partial(at, REFERENCE, compute))
        for place in places(machine):
            yield Case(f"{name}, {place.name}", functools.partial(held, place, compute, reference))
    rendering = functools.partial(tree, "ddim", 3)
    yield Case("the same rendering twice", functools.partial(twice, rendering, places(machine)[0]))
    yield Case("the same run twice", functools.partial(same_run_twice, machine))
    yield Case("a killed and resumed run", functools.partial(killed_and_resumed, machine))


def computed(machine: Machine) -> dict[str, Callable[[Place], Tensor]]:
    """What is computed in every place, by name."""
    samplers = cast(tuple[SamplerName, ...], get_args(SamplerName))
    steps = 3 if machine.rehearse else 8
    return {
        **{f"tree rendering, {name}": functools.partial(tree, name, steps) for name in samplers},
        "an edit by instruction": functools.partial(instructed, steps),
        "Prompt-to-Prompt": functools.partial(prompt_to_prompt, steps),
        "Null-text inversion": functools.partial(null_text, steps),
        "gradient of a training step": functools.partial(gradient, machine),
    }


def at(place: Place, compute: Callable[[Place], Tensor]) -> Tensor:
    """What comes out at a place, in float32 on the CPU."""
    with placed(place):
        return compute(place).detach().float().cpu()


def held(
    place: Place, compute: Callable[[Place], Tensor], reference: Callable[[], Tensor]
) -> Found:
    """How far a place is from the reference."""
    expected, found = reference(), at(place, compute)
    return Found(value=distance(found, expected), unit="of the norm", bound=place.bound)


def distance(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of the reference."""
    return float((found - expected).norm() / expected.norm())


def twice(compute: Callable[[Place], Tensor], place: Place) -> Found:
    """How many numbers differ when a place computes the same twice."""
    one, other = at(place, compute), at(place, compute)
    return Found(value=float((one != other).sum()), unit="numbers differ", bound=0)


# ---------------------------------------------------------------- what is computed


@functools.lru_cache(maxsize=2)
def shapes(place: Place, folder: str = "stable-diffusion") -> Backbone:
    """A model of the shapes world."""
    return load_backbone(MODELS / folder, device=place.device, dtype=place.dtype)


def tree(sampler: SamplerName, steps: int, place: Place) -> Tensor:
    """Clean latents of two trees that share self- and cross-attention."""
    knobs = RenderKnobs(
        share="both", steps=steps, branches=3, sampler=sampler, guidance_range=(3.0, 6.0)
    )
    trees = [draw_tree(triplet, 0, knobs) for triplet in draw_triplets(2, seed=4_000_000)]
    _, latents = denoise_trees(shapes(place), trees, knobs)
    return latents


def instructed(steps: int, place: Place) -> Tensor:
    """Pictures that the trained editor edited."""
    requests = [
        EditRequest(image=from_numpy(render(trial.before)), instruction=trial.instruction, seed=n)
        for n, trial in enumerate(draw_trials(("recolour",), 3))
    ]
    editor = Instruct(backbone=shapes(place, "instruct-pix2pix"), steps=steps)
    return torch.stack(editor.edit(requests))


def prompt_to_prompt(steps: int, place: Place) -> Tensor:
    """Source and edit by word alignment, re-weighting and blend."""
    editor = PromptToPrompt(
        backbone=shapes(place),
        steps=steps,
        guidance_scale=4.0,
        weights={"striped": 1.5},
        blend=Blend(source=("star",), target=("star",)),
    )
    pairs = editor.edit_pairs([EditRequest(source=SOURCE, target=TARGET)])
    return torch.stack([image for pair in pairs for image in pair])


def null_text(steps: int, place: Place) -> Tensor:
    """Latents of a picture that optimised null embeddings led back to."""
    trial = draw_trials(("recolour",), 1)[0]
    request = InversionRequest(
        backbone=shapes(place),
        images=from_numpy(render(trial.before))[None],
        prompts=(SOURCE,),
        steps=steps,
        guidance_scale=4.0,
    )
    inverted = NullText(inner_steps=2, early_stop=0.0).invert(request)
    with torch.no_grad():
        return reconstruct(request.backbone, inverted)


def gradient(machine: Machine, place: Place) -> Tensor:
    """The gradient of a training step, and its loss; in bf16 under autocast, as runs have it."""
    on = replace(machine, device=place.device)
    precision = "32-true" if place.dtype == torch.float32 else "bf16-mixed"
    weights = shapes(replace(place, dtype=torch.float32))
    loss, found = step_of(weights, shapes_batch(4), on, precision, speed=Speed(tf32=place.tf32))
    return torch.cat([found, torch.tensor([loss])])


# ---------------------------------------------------------------- whole runs


def same_run_twice(machine: Machine) -> Found:
    """Numbers of the weights that differ between two runs of one recipe."""
    with tempfile.TemporaryDirectory() as name:
        runs = [run_of(machine, Path(name), f"run-{number}") for number in range(2)]
        return Found(value=apart(*(run() for run in runs)), unit="numbers differ", bound=0)


def killed_and_resumed(machine: Machine) -> Found:
    """The same for a run that was killed in its fourth step, after a checkpoint of two."""
    with tempfile.TemporaryDirectory() as name:
        unbroken, killed = (run_of(machine, Path(name), one) for one in ("unbroken", "killed"))
        killed.killed_at(4)
        return Found(value=apart(unbroken(), killed()), unit="numbers differ", bound=0)


def run_of(machine: Machine, folder: Path, name: str) -> Run:
    """A run on the shapes base whose kernels add in one order."""
    pairs = folder / "data" / "pairs.jsonl"
    return Run(
        base=MODELS / "stable-diffusion",
        pairs=pairs if pairs.is_file() else write_pairs(pairs.parent, 12),
        output=folder / name,
        machine=machine,
        more=("--trainer.deterministic=true", "--data.framing.flip=true"),
    )
