"""What do the editors make of real pictures? All of them on the same edits, read back.

    python scripts/bench/editors.py              # 200 edits; two hours on one core
    python scripts/bench/editors.py --per_kind 2 --only "Direct + P2P;SDEdit 0.6"

What they make of ten of the edits is drawn too (`--picture`); nine rows of it, with `--per_kind 2`,
are the README's `docs/methods.png`.

Rendered scenes of the shapes world, real pictures to the model, with captions that say all of them.
"Did it" is the share of outputs that read back as the scene asked for; "layout kept" those whose
figures all stand where they should in the size they should have; the error is the mean absolute one
on [-1, 1], over what the edit leaves as it was. A Markdown table for `RESULTS.md`.
"""

import inference  # noqa: F401  # isort: skip  the torchvision guard, before diffusers

import hashlib
import random
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from counting import counted
from jsonargparse import auto_cli
from tables import row, share

from inference.backbone import Backbone, load_backbone
from inference.editors.editor import Editor, EditRequest
from inference.editors.instruct import Instruct
from inference.editors.plug_and_play import PlugAndPlay
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.editors.sdedit import SdEdit
from inference.grids import save_grid
from inference.images import from_numpy
from inference.inversion.ddim import Ddim, Direct, NegativePrompt, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion, InversionRequest, Inverted
from inference.inversion.null_text import NullText
from inference.shapes import MODELS
from inference.shapes.captions import caption, describe
from inference.shapes.evaluation import Outcome, Trial, draw_trials, measure
from inference.shapes.reading import read
from inference.shapes.render import Field, render
from inference.shapes.scene import Scene
from training.shapes.layout import KEEPING_LAYOUT

SEED: Final = 25_000_000
GUIDANCE: Final = 4.0
STEPS: Final = 25
"""Of all but the trained editor, which has its own."""
Make = Callable[[Backbone], Editor]


class Kept:
    """An inversion that several editors use: done once, and its cost told to each.

    Attributes:
        rows, seconds: What reuse has saved since `settle` was called last.
    """

    def __init__(self, method: Inversion) -> None:
        self.method, self.rows, self.seconds = method, 0, 0.0
        self._known: dict[tuple[str, ...], tuple[Inverted, int, float]] = {}

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`."""
        key = (*request.prompts, hashlib.sha256(request.images.numpy().tobytes()).hexdigest())
        if key in self._known:
            found, rows, seconds = self._known[key]
            self.rows, self.seconds = self.rows + rows, self.seconds + seconds
            return found
        begin = time.perf_counter()
        with counted(request.backbone.unet) as asked:
            found = self.method.invert(request)
        self._known[key] = found, asked.evaluated, time.perf_counter() - begin
        return found

    def settle(self) -> tuple[int, float]:
        """What reuse has saved, which begins again at nothing."""
        saved = self.rows, self.seconds
        self.rows, self.seconds = 0, 0.0
        return saved


NULL_TEXT: Final = Kept(NullText())


class ForSource:
    """An inversion whose null text guides the source alone."""

    def __init__(self, method: Inversion) -> None:
        self.method = method

    def invert(self, request: InversionRequest) -> Inverted:
        """See `Inversion`."""
        return replace(self.method.invert(request), null_for_targets=False)


def p2p(inversion: Inversion, skip: float = 0.0) -> Make:
    """Prompt-to-Prompt behind an inversion that skips some steps.

    Its windows are those that suit this model, and end where they would without the skip.
    """
    return lambda backbone: PromptToPrompt(
        backbone=backbone,
        inversion=inversion,
        steps=STEPS,
        guidance_scale=GUIDANCE,
        cross=(0.0, 0.8 - skip),
        self_attention=(0.0, 0.4 - skip),
        batch_size=20,
        progress=True,
    )


def sdedit(strength: float, inversion: Inversion | None = None) -> Make:
    """SDEdit at a strength."""
    return lambda backbone: SdEdit(
        backbone=backbone,
        strength=strength,
        inversion=inversion,
        sampler="ddim" if inversion else "euler_ancestral",
        steps=STEPS,
        guidance_scale=GUIDANCE,
        batch_size=20,
        progress=True,
    )


METHODS: Final[Mapping[str, Make]] = {
    "DDIM + P2P": p2p(Ddim()),
    "Null-text + P2P": p2p(NULL_TEXT),
    "Null-text for the source + P2P": p2p(ForSource(NULL_TEXT)),
    "Null-text from the prompt, for the source + P2P": p2p(
        NullText(begin="prompt", for_targets=False)
    ),
    "Negative-prompt + P2P": p2p(NegativePrompt()),
    "Proximal + P2P": p2p(Proximal()),
    "Direct + P2P": p2p(Direct()),
    "edit-friendly DDPM + P2P": p2p(EditFriendly(), skip=0.36),
    "Plug-and-Play": lambda backbone: PlugAndPlay(
        backbone=backbone,
        steps=STEPS,
        guidance_scale=GUIDANCE,
        negative_prompt="",
        batch_size=20,
        progress=True,
    ),
    "SDEdit 0.4": sdedit(0.4),
    "SDEdit 0.6": sdedit(0.6),
    "SDEdit 0.8": sdedit(0.8),
    "SDEdit 0.6 from Null-text": sdedit(0.6, NULL_TEXT),
    "the trained editor": lambda backbone: Instruct(
        backbone=backbone, batch_size=20, progress=True
    ),
}


def main(per_kind: int = 40, only: str = "", picture: Path = Path("out/editors.png")) -> None:
    """Edit, and read what came out.

    Args:
        per_kind: Edits of each of the five types that leave figures where they are.
        only: Methods to run, with semicolons between; empty runs all.
        picture: Where to write what they made: a row a method.
    """
    trials = draw_trials(sorted(KEEPING_LAYOUT), per_kind, seed=SEED)
    names = only.split(";") if only else list(METHODS)
    base, editor = (load_backbone(MODELS / n) for n in ("stable-diffusion", "instruct-pix2pix"))
    header = ("editor", "did it", "layout kept", "error elsewhere", "rows", "s an edit")
    row(*header, *sorted(KEEPING_LAYOUT))
    row(*("---" for _ in (*header, *KEEPING_LAYOUT)))
    shown = {
        "before": [framed(render(trial.before)) for trial in trials],
        "wanted": [framed(render(trial.expected)) for trial in trials],
    }
    for name in names:
        backbone = editor if name == "the trained editor" else base
        begin = time.perf_counter()
        with counted(backbone.unet) as rows:
            found = METHODS[name](backbone).edit(requests_of(trials))
        saved = NULL_TEXT.settle()
        seconds = (time.perf_counter() - begin + saved[1]) / len(trials)
        outputs = [(image.permute(1, 2, 0).numpy() + 1) / 2 for image in found]
        outcomes = [measure(trial, one) for trial, one in zip(trials, outputs, strict=True)]
        kept = [layout_kept(t.expected, o) for t, o in zip(trials, outputs, strict=True)]
        by_kind = [
            [o.right for t, o in zip(trials, outcomes, strict=True) if t.edit_type == kind]
            for kind in sorted(KEEPING_LAYOUT)
        ]
        row(
            name,
            share([one.right for one in outcomes]),
            share(kept),
            f"{elsewhere(outcomes):.3f}",
            f"{(rows.evaluated + saved[0]) / len(trials):.0f}",
            f"{seconds:.2f}",
            *(f"{np.mean(rights):.0%}" for rights in by_kind),
        )
        shown[name] = [
            framed(output, right=one.right) for output, one in zip(outputs, outcomes, strict=True)
        ]
    save_picture(shown, [trial.instruction for trial in trials], picture)


def requests_of(trials: Sequence[Trial]) -> list[EditRequest]:
    """What every editor gets: picture, instruction and both captions."""
    return [
        EditRequest(
            image=from_numpy(render(trial.before)),
            instruction=trial.instruction,
            source=said(trial.before),
            target=said(trial.expected),
            seed=number,
        )
        for number, trial in enumerate(trials)
    ]


def said(scene: Scene) -> str:
    """All that can be said of a scene."""
    return caption(describe(scene, random.Random(0), detail=1.0))


def layout_kept(wanted: Scene, output: Field) -> bool:
    """Whether the likeliest reading has figures in the same places and sizes."""
    found, due = (
        sorted((one.column, one.row, one.size) for one in scene.figures)
        for scene in (read(output).guess, wanted)
    )
    return found == due


def elsewhere(outcomes: Sequence[Outcome]) -> float:
    """Mean error over what the edits leave as it was."""
    return float(np.mean([one.error_elsewhere for one in outcomes]))


def framed(picture: Field, *, right: bool = False) -> Field:
    """A picture in a frame, green where it reads back as asked."""
    colour = (0.13, 0.64, 0.29) if right else (1.0, 1.0, 1.0)
    frame = np.full((picture.shape[0] + 6, picture.shape[1] + 6, 3), colour, picture.dtype)
    frame[3:-3, 3:-3] = picture
    return frame


def save_picture(rows: Mapping[str, Sequence[Field]], asked: Sequence[str], path: Path) -> None:
    """A column an edit, ten of them evenly chosen: before, wanted, and what each method made."""
    chosen = range(0, len(asked), max(1, len(asked) // 10))[:10]
    pictures = [
        [from_numpy(fields[n].astype(np.float32)) for n in chosen] for fields in rows.values()
    ]
    titles = [textwrap.fill(asked[n], 18) for n in chosen]
    save_grid(path, pictures, titles, [textwrap.fill(name, 16) for name in rows])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
