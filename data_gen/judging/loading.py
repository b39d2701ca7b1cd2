"""Which scorers a recipe asks for beside CLIP, and where they come from."""

from pathlib import Path

from data_gen.judging.config import ScorerKnobs, safety_parts
from data_gen.judging.scorers import Scorer
from data_gen.judging.vision_folders import require_processor, require_vision_model
from inference.clip import ClipScorer, load_clip, require_clip


def model_folders(knobs: ScorerKnobs) -> list[str]:
    """The folders, or names, of the models; of a larger folder what is read of it."""
    checker = (
        sorted({str(part) for part in safety_parts(Path(knobs.safety))}) if knobs.safety else []
    )
    clip = knobs.aesthetic.clip if knobs.aesthetic else None
    return checker + [name for name in (clip, knobs.dino) if name is not None]


def require_files(knobs: ScorerKnobs) -> None:
    """Require that what is asked for is here, without loading it.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: There is no CLIP of the name.
    """
    if knobs.safety is not None:
        checker, processor = safety_parts(Path(knobs.safety))
        require_vision_model(checker)
        require_processor(processor)
    if knobs.aesthetic is not None:
        knobs.aesthetic.found_head()
        if knobs.aesthetic.clip is not None:
            require_clip(knobs.aesthetic.clip)
    if knobs.dino is not None:
        require_vision_model(Path(knobs.dino))
        require_processor(Path(knobs.dino))


def load_scorers(knobs: ScorerKnobs, clip: ClipScorer, root: Path) -> list[Scorer]:
    """Load what is asked for, onto the device where CLIP is; the cheap ones first.

    Each is imported where it is asked for: they need other libraries, and seconds for them.

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
        from data_gen.judging.safety import Safety

        found.append(Safety.load(Path(knobs.safety), clip.device))
    if knobs.aesthetic is not None:
        from data_gen.judging.aesthetic import Aesthetic

        named = knobs.aesthetic.clip
        its_clip = clip if named is None else load_clip(named, device=clip.device)
        found.append(Aesthetic.load(knobs.aesthetic.found_head(), its_clip))
    if knobs.dino is not None:
        from data_gen.judging.dino import Dino

        found.append(Dino.load(Path(knobs.dino), clip.device))
    if knobs.judge is not None:
        from data_gen.judging.vision_judge import VisionJudge

        found.append(VisionJudge(knobs.judge, root))
    return found
