"""The records that travel through data generation, each stage adding to the last.

``Caption`` -> ``EditTriplet`` -> ``ImagePair`` -> ``Verdict``. Ids are hashes of content, so the
same text has the same id in every run and on every machine, and everything random downstream can
be a function of an id. Nothing here reads or writes files (see ``shards``).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.content_id import content_id
from inference.outside import parse_object

ImageArray = NDArray[np.uint8]
"""One image: (H, W, 3), RGB, 0..255."""


def same_text(one: str, other: str) -> bool:
    """Whether two captions differ at most in case, white space and the mark at their end.

    An edit between such captions is none. Source: InstructPix2Pix's ``generate_txt_dataset.py``.
    """
    return _folded(one) == _folded(other)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip(".!? ")


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A caption of a source image."""

    id: str
    text: str

    @classmethod
    def of(cls, text: str) -> "Caption":
        """Make a caption whose id is the hash of its text."""
        return cls(id=content_id(text), text=text)


@dataclass(frozen=True, kw_only=True)
class EditTriplet:
    """What the language model wrote for one caption: the three texts of InstructPix2Pix and more.

    An imported triplet may know its instruction alone; a text that is not known is empty.

    Attributes:
        id: Hash of all the other fields, and of the source image where an imported one has no
            captions; also the id of the *group* of pairs rendered from it.
        caption: What the source image shows.
        instruction: What to do to it, in the imperative.
        edited_caption: What the edited image shows.
        edit_type: The kind of edit asked for, such as ``recolour``.
        inverse_instruction: What leads from the edited image back to the source.
    """

    id: str
    caption: str
    instruction: str
    edited_caption: str
    edit_type: str
    inverse_instruction: str

    @classmethod
    def of(
        cls,
        *,
        caption: str,
        instruction: str,
        edited_caption: str,
        edit_type: str,
        inverse_instruction: str,
    ) -> "EditTriplet":
        """Make a triplet whose id is the hash of its texts."""
        return cls(
            id=content_id(caption, instruction, edited_caption, edit_type, inverse_instruction),
            caption=caption,
            instruction=instruction,
            edited_caption=edited_caption,
            edit_type=edit_type,
            inverse_instruction=inverse_instruction,
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """CLIP similarities of one pair, each in [-1, 1] (InstructPix2Pix, section 3.1), and more.

    Attributes:
        image_image: Source image against edited image.
        text_source: Source image against its caption.
        text_edited: Edited image against the edited caption.
        directional: Change between the images against change between the captions.
        surprise: The generator's own error on the worse of the two, at least 0 (see `surprise`).
        aesthetic: How pleasing the less pleasing of the two is, about 1 to 10 (see `aesthetic`).
        dino: Source image against edited image as DINO sees them, in [-1, 1] (see `dino`).
        judge: What a vision-language model thinks of the edit, in [0, 1] (see `vision_judge`).
        unsafe: 1 where a safety checker found something in either image, otherwise 0.

    Those after the four similarities are None where nobody was asked, and not a number where
    somebody was and gave no usable answer.
    """

    image_image: float
    text_source: float
    text_edited: float
    directional: float
    surprise: float | None = None
    aesthetic: float | None = None
    dino: float | None = None
    judge: float | None = None
    unsafe: float | None = None


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """One rendered candidate of a triplet, or an imported pair.

    Attributes:
        triplet: The texts it was rendered from.
        key: ``{triplet.id}-{seed_index}-{branch}``; its name in a shard.
        source: Source image, (H, W, 3) uint8.
        edited: Edited image, (H, W, 3) uint8.
        seed_index: Which of the triplet's seeds; noise and guidance are functions of it.
        branch: Which p of that seed.
        p: Fraction of the steps with shared attention, in [0, 1]; None where it is not known.
        guidance: Classifier-free guidance scale of the rendering; None where it is not known.
        scores: What it scored; None until the pair has been scored.
    """

    triplet: EditTriplet
    key: str
    source: ImageArray
    edited: ImageArray
    seed_index: int
    branch: int
    p: float | None
    guidance: float | None
    scores: Scores | None = None

    @staticmethod
    def key_of(triplet_id: str, seed_index: int, branch: int) -> str:
        """Return the key of a candidate."""
        return f"{triplet_id}-{seed_index}-{branch}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A scored pair and what the filter made of it.

    Attributes:
        pair: The candidate, with its scores.
        reason: None where the pair is kept, otherwise why not, such as ``directional < 0.2``.
        outranked: Whether that is only that others were better: it failed nothing.
    """

    pair: ImagePair
    reason: str | None
    outranked: bool = False


@dataclass(frozen=True, kw_only=True)
class GivenUp:
    """A candidate that was not rendered to its end.

    Attributes:
        triplet, key, seed_index, branch, p, guidance: As in `ImagePair`.
        reason: Why it was given up, such as ``source: text_source < 0.2``.
    """

    triplet: EditTriplet
    key: str
    seed_index: int
    branch: int
    p: float
    guidance: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Everything that came of one triplet before the filter chose.

    Attributes:
        triplet: The triplet.
        pairs: Its finished candidates; empty where it could not be rendered.
        given_up: Those that were begun and not finished.
        reason: Why it could not be rendered, for example its captions' length; None otherwise.
        seconds: What took how long, ``render`` and ``score``. The first triplet of a batch bears
            the batch's rendering.
    """

    triplet: EditTriplet
    pairs: tuple[ImagePair, ...]
    given_up: tuple[GivenUp, ...] = ()
    reason: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def caption_to_json(caption: Caption) -> str:
    """Write a caption as one line of JSON."""
    return json.dumps(asdict(caption))


def caption_from_json(line: str) -> Caption:
    """Read one line of a captions file.

    Raises:
        ValueError: The line is no JSON object with a text, or its id is not the hash of its text.
    """
    fields = _strings(line, "caption", {"id", "text"})
    caption = Caption.of(fields["text"])
    _check_id(fields["id"], caption.id)
    return caption


def triplet_to_json(triplet: EditTriplet) -> str:
    """Write a triplet as one line of JSON."""
    return json.dumps(asdict(triplet))


def triplet_from_json(line: str) -> EditTriplet:
    """Read one line of a triplets file.

    Raises:
        ValueError: A field is missing, unknown or no string, or the id is not that of the texts.
    """
    fields = _strings(line, "triplet", set(EditTriplet.__dataclass_fields__))
    found = fields.pop("id")
    triplet = EditTriplet.of(**fields)
    _check_id(found, triplet.id)
    return triplet


def _check_id(found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(f"the id {found!r} is not the hash of the texts, {expected!r}")


def _strings(line: str, what: str, expected: set[str]) -> dict[str, str]:
    fields = parse_object(line, f"a {what}")
    if set(fields) != expected:
        raise ValueError(f"a {what} has the fields {sorted(expected)}, got {line[:80]!r}")
    wrong = sorted(name for name, value in fields.items() if not isinstance(value, str))
    if wrong:
        raise ValueError(f"the fields {wrong} of a {what} must be strings, got {line[:80]!r}")
    return fields
