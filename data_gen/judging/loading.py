"""Which scorers a recipe asks for beside CLIP, and where they come from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from data_gen.judging.aesthetic import Aesthetic
from data_gen.judging.dino import Dino
from data_gen.judging.judge_knobs import JudgeKnobs
from data_gen.judging.safety import Safety, parts
from data_gen.judging.scorers import Scorer
from data_gen.judging.vision_folders import require_processor, require_vision_model
from data_gen.judging.vision_judge import VisionJudge
from inference.clip import ClipScorer, load_clip, located_clip, require_clip
from inference.files import file_digest
from inference.model_names import located


@dataclass(frozen=True, kw_only=True)
class AestheticKnobs:
    """LAION's aesthetic predictor.

    Attributes:
        head: A safetensors file with the linear head's ``weight``, (1, D), and ``bias``, (1,).
        clip: The CLIP that the head was trained on; null where it is ``pairs.clip``.
    """

    head: Path
    clip: str | None = None


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
        """What decides the scores beside the contents of `folders`."""
        return {
            "head": self.aesthetic and file_digest(_head(self.aesthetic.head)),
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

    def folders(self) -> list[str]:
        """The folders, or names, of the models; of a larger folder what is read of it."""
        checker = sorted({str(part) for part in parts(Path(self.safety))}) if self.safety else []
        clip = self.aesthetic.clip if self.aesthetic else None
        return checker + [name for name in (clip, self.dino) if name is not None]

    def require_files(self) -> None:
        """Require that what is asked for is here, without loading it.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: There is no CLIP of the name.
        """
        if self.safety is not None:
            checker, processor = parts(Path(self.safety))
            require_vision_model(checker)
            require_processor(processor)
        if self.aesthetic is not None:
            _head(self.aesthetic.head)
            if self.aesthetic.clip is not None:
                require_clip(self.aesthetic.clip)
        if self.dino is not None:
            require_vision_model(Path(self.dino))
            require_processor(Path(self.dino))

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


def load_scorers(knobs: ScorerKnobs, clip: ClipScorer, root: Path) -> list[Scorer]:
    """Load what is asked for, onto the device where CLIP is; the cheap ones first.

    Args:
        knobs: Which.
        clip: The CLIP that scores pairs.
        root: The data set's folder, for the judge's journal.

    Raises:
        FileNotFoundError: A model is not there.
        ValueError: A folder or file holds something else.
    """
    found: list[Scorer] = []
    if knobs.safety is not None:
        found.append(Safety.load(Path(knobs.safety), clip.device))
    if knobs.aesthetic is not None:
        named = knobs.aesthetic.clip
        its_clip = clip if named is None else load_clip(named, device=clip.device)
        found.append(Aesthetic.load(_head(knobs.aesthetic.head), its_clip))
    if knobs.dino is not None:
        found.append(Dino.load(Path(knobs.dino), clip.device))
    if knobs.judge is not None:
        found.append(VisionJudge(knobs.judge, root))
    return found


def _head(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"pairs.scorers.aesthetic.head: there is no file {path}")
    return path
