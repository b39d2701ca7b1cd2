"""How pictures are inverted: the options of each inversion, and the names they go by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final, Literal

from inference.config import Config
from inference.number_types import (
    Finite,
    Fraction,
    FractionBelowOne,
    NonNegative,
    Positive,
    Seed,
    SmallCount,
    checks_numbers,
)


class InversionConfig(Config):
    """The options of an inversion."""


@dataclass(frozen=True, kw_only=True)
class DdimConfig(InversionConfig):
    """DDIM inversion (Dhariwal & Nichol 2021, appendix F), without guidance.

    With guidance the way back leads elsewhere: the lower bound of Null-text inversion's table.
    """

    of: ClassVar[str] = "inference.inversion.ddim:Ddim"


@dataclass(frozen=True, kw_only=True)
class NegativePromptConfig(InversionConfig):
    """Negative-prompt inversion (Miyake et al. 2023): the null embedding is the source prompt's.

    Guidance then vanishes for the source, and costs nothing to prepare.
    """

    of: ClassVar[str] = "inference.inversion.ddim:NegativePrompt"


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class ProximalGuidance:
    """Guidance only where it matters (Han et al. 2024, ProxEdit, section 3.2).

    Of e_c - e_u only what exceeds a quantile of it counts; elsewhere the picture is not led away,
    and late in the way it is put back onto the trajectory of its inversion, as the source is.

    Attributes:
        quantile: Share of the target's values, smallest first, that do not count. The authors take
            theirs over source and target, and the source's are all 0: their 0.7 is 0.4 here, their
            0.75 is 0.5.
        norm: What happens to the rest: `l0` keeps it, `l1` takes the threshold off it.
        back_below: Timestep below which the source, and what is not led of the target, are put
            back; 0 never does.
        back_rate: How far back, in [0, 1].
        dilate: Latents by which the places that are led are widened.
    """

    quantile: Fraction = 0.7
    norm: Literal["l0", "l1"] = "l0"
    back_below: NonNegative = 400.0
    back_rate: Fraction = 1.0
    dilate: SmallCount = 1


@dataclass(frozen=True, kw_only=True)
class ProximalConfig(InversionConfig):
    """Negative-prompt inversion whose targets are guided where it matters alone (Han et al. 2024).

    Late in the way the sources are put back onto their trajectory, so that they are exact.

    Attributes:
        guidance: How.
    """

    of: ClassVar[str] = "inference.inversion.ddim:Proximal"

    guidance: ProximalGuidance = ProximalGuidance()


@dataclass(frozen=True, kw_only=True)
class DirectConfig(InversionConfig):
    """Direct inversion (Ju et al. 2024): the source is put back onto its trajectory at every step.

    The source is exact; the target is left to its own steps.
    """

    of: ClassVar[str] = "inference.inversion.ddim:Direct"


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class EditFriendlyConfig(InversionConfig):
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024).

    The picture is noised to every level independently; what a DDPM step between two levels would
    have had to add is kept, and added again when an edit is drawn. Reconstruction is exact.

    Attributes:
        skip: Fraction of the steps that an edit leaves out at the start; the paper skips 36 of 100.
            The windows of Prompt-to-Prompt begin after it, as the authors count them.
        source_scale: Guidance with which the steps are taken; the paper's is 3.5, with 15 for
            edits.
        seed: Of the noise to every level.
    """

    of: ClassVar[str] = "inference.inversion.edit_friendly:EditFriendly"

    skip: FractionBelowOne = 0.36
    source_scale: Finite = 3.5
    seed: Seed = 0


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class NullTextConfig(InversionConfig):
    """Null-text inversion (Mokady et al. 2023, algorithm 1), of all pictures at once.

    The null embedding of step i starts as that of the step before and is optimised until the guided
    step from where the way back has come arrives on the pivot, the DDIM trajectory. A picture
    leaves the optimisation of a step as soon as it is close enough; the others go on. Whether it is
    is seen before an optimiser step, not after: where the embedding of the step before still does,
    a step costs no gradient, and what was evaluated for the look is the step itself. What is
    optimised, and towards what, can be chosen for the paper's ablations (see `ABLATIONS`).

    Attributes:
        inner_steps: Optimiser steps a sampler step, at most.
        learning_rate: Of Adam at the first step; it falls to zero over 100 steps.
        early_stop: Mean squared error at which a picture is close enough at the first step; it
            grows by twice as much a step. 0 never stops early.
        begin: Where the null embedding of the first step starts: at that of the empty text, or at
            that of the prompt, as Negative-prompt inversion has it. Guidance then vanishes at
            first, so that little is left to optimise; but an edit that these embeddings guide too
            (`for_targets`) is then overdriven where guidance is strong.
        embedding: Which is optimised: that of the null text, or that of the prompt (pivotal Textual
            Inversion).
        pivot: The trajectory to arrive on: the DDIM inversion's, that of one random noise, or that
            of a new random noise at every optimiser step, which is none.
        for_targets: Whether edits are guided with these embeddings too, as the authors do; else
            only the picture itself is (an ablation of Ju et al. 2024).
        per_step: Whether every step gets an embedding of its own; else all share one, which as many
            optimiser steps go into.
        seed: Of the random noise.
    """

    of: ClassVar[str] = "inference.inversion.null_text:NullText"

    inner_steps: SmallCount = 10
    learning_rate: Positive = 1e-2
    early_stop: NonNegative = 1e-5
    begin: Literal["empty", "prompt"] = "empty"
    embedding: Literal["null", "prompt"] = "null"
    pivot: Literal["inversion", "random", "none"] = "inversion"
    for_targets: bool = True
    per_step: bool = True
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.embedding == "prompt" and self.begin != "empty":
            raise ValueError(
                f"begin is {self.begin!r} and embedding 'prompt'; expected embedding 'null', which "
                "is what has a choice of where to begin"
            )
        if self.embedding == "prompt" and not self.for_targets:
            raise ValueError(
                "for_targets is False and embedding 'prompt'; expected embedding 'null': the "
                "prompt's embeddings never guide edits, which have a prompt of their own"
            )


@dataclass(frozen=True, kw_only=True)
class SavedConfig(InversionConfig):
    """Inversions that were made and saved before.

    Attributes:
        path: The `.safetensors` file of a picture, or a folder with one for each.
    """

    of: ClassVar[str] = "inference.inversion.saved:Saved"

    path: Path


INVERSIONS: Final[Mapping[str, type[InversionConfig]]] = MappingProxyType(
    {
        "ddim": DdimConfig,
        "null_text": NullTextConfig,
        "negative_prompt": NegativePromptConfig,
        "proximal": ProximalConfig,
        "direct": DirectConfig,
        "edit_friendly": EditFriendlyConfig,
        "saved": SavedConfig,
    }
)
