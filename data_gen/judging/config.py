"""Which candidates become training pairs, and who looks at them: the options."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from data_gen.judging.judge_knobs import JudgeKnobs
from data_gen.records import Scores
from inference.files import file_digest
from inference.model_names import located, located_clip
from inference.number_types import Finite, PositiveCount, Similarity, checks_numbers

SCORES: Final = tuple(each.name for each in fields(Scores))
"""All that may be asked of a pair."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What each similarity of a pair must at least reach, in [-1, 1].

    They belong to one CLIP checkpoint. InstructPix2Pix's 0.7, 0.2, 0.2, 0.2 are ViT-L/14's.

    Attributes:
        image_image: Source image against edited image.
        text_source: Source image against its caption.
        text_edited: Edited image against the edited caption.
        directional: Change between the images against change between the captions.
    """

    image_image: Similarity
    text_source: Similarity
    text_edited: Similarity
    directional: Similarity

    @classmethod
    def of_checkpoint(cls, found: Mapping[str, float]) -> "Thresholds":
        """Make thresholds of those in a CLIP folder.

        Raises:
            ValueError: One is missing, or there is one that is not known.
        """
        expected = sorted(each.name for each in fields(cls))
        if sorted(found) != expected:
            raise ValueError(
                f"the CLIP checkpoint carries thresholds for {sorted(found)}, expected {expected}; "
                "give pairs.filter.thresholds in the recipe"
            )
        return cls(**found)


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class FilterKnobs:
    """How candidates are chosen.

    Attributes:
        thresholds: What the similarities must reach; None takes those in the CLIP folder.
        best_p_per_seed: Let only the best p of each seed compete for ``keep``; the candidates of
            one seed share their source image.
        prefer: Which of the candidates that reach all thresholds come first: those whose change is
            most that of the captions, as InstructPix2Pix has it, or those whose pixels change
            least, which leave the rest alone. The latter trusts the thresholds to turn down edits
            that change nothing.
        at_least: Score -> the least that a pair must have, such as {dino: 0.6, judge: 0.7}: any
            score that the run computes, see `Scores`. A bound on ``surprise``, the generator's own
            error, has it asked; aesthetic, dino, judge and unsafe are those of ``scorers``.
        at_most: Score -> the most that it may have, such as {surprise: 0.01}.
        keep: Pairs to keep of a triplet, at most.
    """

    thresholds: Thresholds | None = None
    best_p_per_seed: bool = True
    prefer: Literal["direction", "closeness"] = "direction"
    at_least: Mapping[str, Finite] = field(default_factory=dict)
    at_most: Mapping[str, Finite] = field(default_factory=dict)
    keep: PositiveCount = 4

    def __post_init__(self) -> None:
        if unknown := sorted(self.bounded - set(SCORES)):
            raise ValueError(
                f"pairs.filter bounds {', '.join(unknown)}, which is no score; expected of "
                f"{', '.join(SCORES)}"
            )

    @property
    def bounded(self) -> set[str]:
        """The scores that have a bound, beside the thresholds."""
        return {*self.at_least, *self.at_most}


@dataclass(frozen=True, kw_only=True)
class AestheticKnobs:
    """LAION's aesthetic predictor.

    Attributes:
        head: A safetensors file with the linear head's ``weight``, (1, D), and ``bias``, (1,).
        clip: The CLIP that the head was trained on; null where it is ``pairs.clip``.
    """

    head: Path
    clip: str | None = None

    def found_head(self) -> Path:
        """The head's file.

        Raises:
            FileNotFoundError: It is not there.
        """
        if not self.head.is_file():
            raise FileNotFoundError(f"pairs.scorers.aesthetic.head: there is no file {self.head}")
        return self.head


@dataclass(frozen=True, kw_only=True)
class ScorerKnobs:
    """Who looks at pairs beside CLIP. All are off by default; their scores go into the shards.

    Attributes:
        safety: Stable Diffusion 1's safety checker: its folder, a Stable Diffusion folder that
            holds it, or such a repository of the hub. An unsafe pair is rejected, and its pictures
            are written nowhere.
        aesthetic: How pleasing the pictures are.
        dino: A transformers folder, or OWNER/NAME of the hub such as facebook/dinov2-base: how much
            of the source the edit leaves.
        judge: A vision-language model's opinion of the edit, asked last.
    """

    safety: str | None = None
    aesthetic: AestheticKnobs | None = None
    dino: str | None = None
    judge: JudgeKnobs | None = None

    def decides(self) -> dict[str, Any]:
        """What decides the scores beside the contents of the models' folders."""
        return {
            "head": self.aesthetic and file_digest(self.aesthetic.found_head()),
            "judge": self.judge and self.judge.decides(),
            "on": [name for name, knobs in asdict(self).items() if knobs is not None],
        }

    def named(self) -> dict[str, str]:
        """Who they are, for a pair's provenance."""
        found = {
            "safety": self.safety,
            "aesthetic": self.aesthetic.head.name if self.aesthetic else None,
            "dino": self.dino,
            "judge": self.judge.model if self.judge else None,
        }
        return {what: name for what, name in found.items() if name is not None}

    def located(self) -> Self:
        """The same, every model by its folder; those of the hub are fetched.

        Raises:
            FileNotFoundError, ValueError: As `inference.model_names.located`.
        """
        return replace(
            self,
            safety=self.safety and str(located(self.safety, "safety")),
            dino=self.dino and str(located(self.dino, "transformers")),
            aesthetic=self.aesthetic
            and replace(
                self.aesthetic, clip=self.aesthetic.clip and located_clip(self.aesthetic.clip)
            ),
        )

    def at(self, locate: Callable[[str], str]) -> Self:
        """The same, with models where they lie."""
        return replace(
            self,
            safety=self.safety and locate(self.safety),
            dino=self.dino and locate(self.dino),
            aesthetic=self.aesthetic
            and replace(
                self.aesthetic,
                head=self.aesthetic.head.resolve(),
                clip=self.aesthetic.clip and locate(self.aesthetic.clip),
            ),
        )


def safety_parts(folder: Path) -> tuple[Path, Path]:
    """Where the safety checker and its image processor lie: in one folder, or in two."""
    if (folder / "safety_checker").is_dir():
        return folder / "safety_checker", folder / "feature_extractor"
    return folder, folder
