"""The recipe of a data set: how each of the stages is done."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Self

from data_gen.captions.config import CaptionKnobs
from data_gen.instructions.knobs import InstructionKnobs
from data_gen.judging.config import FilterKnobs, ScorerKnobs
from data_gen.rendering.config import EarlyKnobs, RenderKnobs
from data_gen.runs.config import ExecutorKnobs
from inference.model_names import located, located_clip
from inference.number_types import Count, PositiveCount, checks_numbers

RECIPES: Final = Path(__file__).with_name("recipes")
"""Where the recipes lie that have names."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class PairKnobs:
    """How triplets become image pairs.

    Attributes:
        model: The text-to-image model: a diffusers folder, one that ships (`shapes/NAME`), or
            OWNER/NAME of the hub.
        vae: An autoencoder to use instead of the model's own, such as Stable Diffusion's fine-tuned
            decoder or an SDXL one that bears float16; likewise.
        clip: The CLIP that scores: likewise, or a name that open_clip knows.
        precision: Of the text-to-image model's weights.
        channels_last: Whether its convolutions keep the channels of a pixel together in memory,
            which tensor cores want. Pixels move by rounding with it.
        compile: Whether what lies between its attention sites is compiled; the first unit takes a
            minute longer. Pixels move by rounding with it.
        render: Sampling and attention sharing.
        filter: What is kept.
        early: What is not rendered to its end.
        scorers: Who looks at pairs beside CLIP.
        unit_size: Triplets a unit: what is lost, at most, when a run is killed.
        keep_rejected: Pairs a unit keeps, one a triplet, that failed something, to be looked at or
            as the worse halves of preferences; each says what it failed.
    """

    model: str = "shapes/stable-diffusion"
    vae: str | None = None
    clip: str = "shapes/clip"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    render: RenderKnobs = field(default_factory=RenderKnobs)
    filter: FilterKnobs = field(default_factory=FilterKnobs)
    early: EarlyKnobs = field(default_factory=EarlyKnobs)
    scorers: ScorerKnobs = field(default_factory=ScorerKnobs)
    unit_size: PositiveCount = 32
    keep_rejected: Count = 4

    def __post_init__(self) -> None:
        scorers = {"aesthetic": "aesthetic", "dino": "dino", "judge": "judge", "unsafe": "safety"}
        for score, scorer in scorers.items():
            if score in self.filter.bounded and getattr(self.scorers, scorer) is None:
                raise ValueError(f"pairs.filter bounds {score}, which needs pairs.scorers.{scorer}")

    def located(self) -> Self:
        """The same, every model by its folder; those of the hub are fetched.

        Raises:
            FileNotFoundError, ValueError: As `inference.model_names.located`.
        """
        return replace(
            self,
            model=str(located(self.model)),
            vae=self.vae and str(located(self.vae, "autoencoder")),
            clip=located_clip(self.clip),
            scorers=self.scorers.located(),
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a data set is made.

    Attributes:
        output: The data set's folder.
        captions: The caption stage.
        instructions: The instruction stage.
        pairs: The pair stage.
        partition: The share of the units that this process makes, i/n; for array jobs.
        executor: Who makes them: this process, several, or a cluster.
    """

    output: Path
    captions: CaptionKnobs = field(default_factory=CaptionKnobs)
    instructions: InstructionKnobs = field(default_factory=InstructionKnobs)
    pairs: PairKnobs = field(default_factory=PairKnobs)
    partition: str = "0/1"
    executor: ExecutorKnobs = field(default_factory=ExecutorKnobs)

    def located(self) -> Self:
        """The same, every model by its folder; those of the hub are fetched.

        Raises:
            FileNotFoundError, ValueError: As `inference.model_names.located`.
        """
        return replace(self, instructions=self.instructions.located(), pairs=self.pairs.located())
