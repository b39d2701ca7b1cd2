"""What does Null-text inversion cost: the authors' notebook, ours, many pictures at once, and less?

    python scripts/bench/null_text.py speed      # 8 pictures, 2 turns; half an hour on 2 cores
    python scripts/bench/null_text.py memory     # Stable Diffusion 1.5's shape; 10 minutes

All take turns in one run, over the same pictures. Rows are those of the UNet for all pictures,
the DDIM inversion included; drawing them again is neither timed nor counted. Markdown tables for
`RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import torch
from counting import Rows, counted
from inversion import interval, pictures, psnr
from jsonargparse import auto_cli
from null_text_reference import ReferenceNullText
from stable_diffusion import save_sd15
from tables import header, row
from torch import Tensor
from written_maps import written_maps

from inference.backbone import Backbone, load_backbone
from inference.inversion.ddim import Ddim
from inference.inversion.inverted import Inversion, InversionRequest, Inverted, reconstruct
from inference.inversion.null_text import NullText
from inference.shapes import MODELS


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of inverting pictures.

    Attributes:
        method: The inversion.
        at_once: Whether all pictures are one batch.
        dtype: Of the model's weights.
    """

    method: Inversion
    at_once: bool
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One inversion of all pictures."""

    seconds: float
    rows: Rows
    again: Tensor


class Notebook:
    """The authors' loop with the maps that their attention control writes out."""

    def __init__(self, **knobs: int) -> None:
        self.loop = ReferenceNullText(**knobs)

    def invert(self, request: InversionRequest) -> Inverted:
        """Invert one picture."""
        with written_maps(request.backbone.unet, lambda maps, _: maps):
            return self.loop.invert(request)


REFERENCE: Final = "the notebook"
WAYS: Final[Mapping[str, Way]] = {
    REFERENCE: Way(method=Notebook(), at_once=False),
    "ours": Way(method=NullText(), at_once=False),
    "ours, all at once": Way(method=NullText(), at_once=True),
    "all 10 updates": Way(method=NullText(early_stop=0.0), at_once=False),
    "all 10 updates, all at once": Way(method=NullText(early_stop=0.0), at_once=True),
    "begun at the prompt, all at once": Way(method=NullText(begin="prompt"), at_once=True),
    "bfloat16, all at once": Way(method=NullText(), at_once=True, dtype=torch.bfloat16),
    "3 updates at most, all at once": Way(method=NullText(inner_steps=3), at_once=True),
    "3 updates at most, rate 0.03, all at once": Way(
        method=NullText(inner_steps=3, learning_rate=3e-2), at_once=True
    ),
}


def speed(
    count: int = 8,
    turns: int = 2,
    steps: int = 50,
    guidance_scale: float = 7.5,
    only: str = "",
    model: Path = MODELS / "stable-diffusion",
) -> None:
    """Pictures a minute, rows and PSNR.

    Args:
        count: Pictures.
        turns: How often each way runs.
        steps: Denoising steps.
        guidance_scale: Of the way back.
        only: Ways to measure, with semicolons between; empty measures all.
        model: A text-to-image model of the shapes world.
    """
    images, prompts = pictures(count)
    ways = {name: WAYS[name] for name in only.split(";")} if only else WAYS
    backbones = {way.dtype: load_backbone(model, dtype=way.dtype) for way in ways.values()}
    found: dict[str, list[Turn]] = {name: [] for name in ways}
    for number in range(turns):
        for name, way in ways.items():
            backbone = backbones[way.dtype]
            found[name].append(taken(way, backbone, images, prompts, steps, guidance_scale))
            print(f"turn {number + 1}, {name}: {found[name][-1].seconds:.0f} s", file=sys.stderr)
    first = next(iter(found.values()))
    header("", "rows", "with gradient", "pictures a minute", f"of {next(iter(found))}", "PSNR")
    for name, done in found.items():
        pace = statistics.median(60 * count / one.seconds for one in done)
        ratios = [one.seconds / other.seconds for one, other in zip(first, done, strict=True)]
        row(
            name,
            done[0].rows.evaluated,
            done[0].rows.with_gradient,
            f"{pace:.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            interval(psnr(done[0].again, images)),
        )


def taken(
    way: Way,
    backbone: Backbone,
    images: Tensor,
    prompts: list[str],
    steps: int,
    guidance_scale: float,
) -> Turn:
    """Invert all pictures one way, and draw them again."""
    batch = len(images) if way.at_once else 1
    again, seconds, total = [], 0.0, Rows()
    for start in range(0, len(images), batch):
        request = InversionRequest(
            backbone=backbone,
            images=images[start : start + batch],
            prompts=tuple(prompts[start : start + batch]),
            steps=steps,
            guidance_scale=guidance_scale,
        )
        begin = time.perf_counter()
        with counted(backbone.unet) as rows:
            inverted = way.method.invert(request)
        seconds += time.perf_counter() - begin
        total = Rows(total.evaluated + rows.evaluated, total.with_gradient + rows.with_gradient)
        with torch.no_grad():
            again.append(backbone.decode(reconstruct(backbone, inverted)))
    return Turn(seconds=seconds, rows=total, again=torch.cat(again))


def memory(model: Path | None = None, batches: tuple[int, ...] = (1, 2)) -> None:
    """Memory of a process at its peak, above the model's own, each in a process of its own.

    Two steps of two updates: what is held does not grow with either.

    Args:
        model: Diffusers folder; by default one of Stable Diffusion 1.5's shape, weights at random.
        batches: Pictures at once, ours; the notebook takes one.
    """
    with tempfile.TemporaryDirectory() as name:
        if model is None:
            model = Path(name)
            save_sd15(model)
        header("", "pictures at once", "peak above the model, MB")
        cases: list[tuple[str, Inversion, int]] = [
            (REFERENCE, Notebook(inner_steps=2), 1),
            *(("ours", NullText(inner_steps=2), batch) for batch in batches),
        ]
        for about, method, batch in cases:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                row(about, batch, f"{pool.submit(peak, model, method, batch).result():,.0f}")


def peak(model: Path, method: Inversion, batch: int) -> float:
    """MB at the peak of an inversion above what the process held before it."""
    backbone = load_backbone(model)
    side = backbone.native_size
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    request = InversionRequest(
        backbone=backbone,
        images=images,
        prompts=("a large red circle in the middle on a white background",) * batch,
        steps=2,
        guidance_scale=7.5,
    )
    small = images[:, :, : backbone.size_multiple, : backbone.size_multiple]
    Ddim().invert(replace(request, images=small))  # every weight has been read from its file
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is counted from here
    before = held("VmRSS")
    method.invert(request)
    return held("VmHWM") - before


def held(what: str) -> float:
    """MB of memory of this process: `VmRSS`, now, or `VmHWM`, at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


if __name__ == "__main__":
    auto_cli({"speed": speed, "memory": memory}, as_positional=False)
