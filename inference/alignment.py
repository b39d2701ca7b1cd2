"""Which tokens of two prompts belong together: what Prompt-to-Prompt knows of language.

Words are found in the text and then looked up among the tokens by their places, so punctuation,
capitals, double spaces, words of several tokens and tokens added to the vocabulary (`<new1>`) need
no rules of their own. Which words of two prompts are the same, `word_matches` says.

Positions count the start token as 0, as the columns of a cross-attention map do.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from inference.backbone import PromptTooLong
from inference.word_matches import match_words

START = 0
"""Position of the start token, which attention rests on where it looks at no word."""

_WORD = re.compile(r"\w+|[^\w\s]")
_OCCURRENCE = re.compile(r"(.*\S)@(\d+)")
_CHARACTERS = re.compile(r"@(\d+):(\d+)")

Span = tuple[int, int]
"""From a first to before a last, of characters or of token positions."""


class WordNotFound(ValueError):
    """A prompt does not hold the words that were named."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt as the text encoder reads it.

    Attributes:
        text: As given.
        ids: Its tokens, without start, end and padding.
        spans: The characters that each token stands for.
        length: Positions that the encoder reads, L: start, tokens, end, padding.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    length: int

    @property
    def end(self) -> int:
        """Position of the end token; padding follows."""
        return 1 + len(self.ids)

    def words(self) -> list[Span]:
        """Token positions of each word or punctuation mark, in order."""
        found: list[Span] = []
        for match in _WORD.finditer(self.text):
            first, last = self._positions(match.span())
            if found and first < found[-1][1]:
                found[-1] = (found[-1][0], max(last, found[-1][1]))  # they share a token
            elif first < last:
                found.append((first, last))
        return found

    def spellings(self) -> list[str]:
        """Each of these words as it is compared: composed characters, in lower case."""
        texts = [
            self.text[self.spans[first - 1][0] : self.spans[last - 2][1]]
            for first, last in self.words()
        ]
        return [unicodedata.normalize("NFC", text).lower() for text in texts]

    def find(self, word: str) -> tuple[int, ...]:
        """Token positions of a word in the prompt, whatever its case and spacing.

        Args:
            word: One word or several, whole ones, wherever they occur: `cat`, `teddy bear`. `cat@2`
                is the second occurrence alone; `@12:15` are the words that any character from 12
                to before 15 belongs to, counted from 0.

        Raises:
            WordNotFound: It is not there, or not that often.
        """
        if characters := _CHARACTERS.fullmatch(word):
            return self._at((int(characters[1]), int(characters[2])))
        occurrence = _OCCURRENCE.fullmatch(word)
        phrase = occurrence[1] if occurrence else word
        matches = self._matches(phrase)
        if not matches:
            raise WordNotFound(f"the prompt {self.text!r} has no {phrase!r}")
        if occurrence:
            number = int(occurrence[2])
            if not 1 <= number <= len(matches):
                raise WordNotFound(
                    f"the prompt {self.text!r} has {phrase!r} {len(matches)} times, "
                    f"so there is no {word!r}"
                )
            matches = [matches[number - 1]]
        return tuple(position for match in matches for position in self._at(match))

    def _matches(self, phrase: str) -> list[Span]:
        """The characters of each occurrence of whole words."""
        words = phrase.split()
        if not words:
            raise WordNotFound("the word to find is empty")
        pattern = r"\s+".join(map(re.escape, words))
        bounded = (r"(?<!\w)" if words[0][0].isalnum() else "") + pattern
        bounded += r"(?!\w)" if words[-1][-1].isalnum() else ""
        return [match.span() for match in re.finditer(bounded, self.text, re.IGNORECASE)]

    def _at(self, characters: Span) -> tuple[int, ...]:
        start, stop = characters
        if stop > len(self.text):
            raise WordNotFound(
                f"the prompt {self.text!r} has {len(self.text)} characters, "
                f"so there is no '@{start}:{stop}'"
            )
        first, last = self._positions(characters)
        if first >= last:
            raise WordNotFound(f"characters {start} to {stop} of {self.text!r} are no word")
        return tuple(range(first, last))

    def _positions(self, characters: Span) -> Span:
        start, stop = characters
        touching = [
            position
            for position, (left, right) in enumerate(self.spans, start=1)
            if left < stop and start < right
        ]
        return (touching[0], touching[-1] + 1) if touching else (0, 0)


def read_prompt(tokenizer: Any, text: str, length: int) -> Prompt:
    """Tokenise a prompt.

    Args:
        tokenizer: A fast tokenizer with a start and an end token, such as CLIPTokenizer.
        text: The prompt.
        length: Tokens that the text encoder reads, start and end included.

    Raises:
        PromptTooLong: It does not fit.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, padding=False, verbose=False)
    if len(encoded.input_ids) > length:
        raise PromptTooLong(text, found=len(encoded.input_ids), limit=length)
    return Prompt(
        text=text,
        ids=tuple(encoded.input_ids[1:-1]),
        spans=tuple((start, stop) for start, stop in encoded.offset_mapping[1:-1]),
        length=length,
    )


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where a target prompt's tokens take their attention from in a source prompt's map.

    With A the source's cross-attention map (..., L source positions), `A @ matrix` is the map in
    the target's positions; `taken` says which of its columns are meant.

    Attributes:
        matrix: (L, L), source by target. Where a source token is part of the target, or of what was
            put in its place, its row sums to 1. The row of a deleted token points to the start
            token, which is where attention rests that looks at no word.
        taken: (L,) bool, target tokens that take the source's attention. The others, which the
            source has no match for, keep their own.
    """

    matrix: Tensor
    taken: Tensor

    @cached_property
    def is_identity(self) -> bool:
        """Whether every position takes the attention of the same position: the map as it is."""
        return bool(self.taken.all()) and torch.equal(self.matrix, torch.eye(len(self.matrix)))


def align(source: Prompt, target: Prompt, *, substitute: bool) -> Alignment:
    """Align the tokens of two prompts.

    Args:
        source: The prompt whose attention is taken.
        target: The prompt that takes it.
        substitute: Whether a word that stands where another stood takes its attention
            (Prompt-to-Prompt's word swap), or keeps its own (its refinement).

    Raises:
        ValueError: The prompts are padded to different lengths.
    """
    if source.length != target.length:
        raise ValueError(
            f"the prompts are padded to {source.length} and {target.length} tokens; "
            "expected the same length"
        )
    links, deleted = _compare(source, target, substitute=substitute)
    return linked(source, target, links, deleted)


Link = tuple[Sequence[int], Sequence[int]]
"""Positions in the source, and those in the target that take their attention."""


def linked(
    source: Prompt, target: Prompt, links: Sequence[Link], deleted: Sequence[int]
) -> Alignment:
    """The alignment that some links between the words of two prompts make.

    Args:
        source, target: Prompts of one length.
        links: No position of either stands in two of them.
        deleted: Positions of the source that nothing in the target stands for.
    """
    matrix = torch.zeros(source.length, target.length)
    for old, new in [*links, *_frame(source, target)]:
        _spread(matrix, old, new)
    taken = matrix.any(dim=0)
    taken[target.end :] = True  # padding beyond the source's takes none, so that no mass is added
    matrix[list(deleted), START] = 1
    return Alignment(matrix=matrix, taken=taken)


def _compare(source: Prompt, target: Prompt, *, substitute: bool) -> tuple[list[Link], list[int]]:
    """Links between words, and the positions of source words that nothing stands for."""
    old, new = ([range(*span) for span in prompt.words()] for prompt in (source, target))
    found = match_words(source.spellings(), target.spellings())
    links: list[Link] = [(old[i], new[j]) for i, j in found.same]
    if substitute:
        for gone, come in found.replaced:
            links += _substitution([old[i] for i in gone], [new[j] for j in come])
    return links, [*chain.from_iterable(old[i] for i in found.deleted)]


def _substitution(gone: Sequence[range], come: Sequence[range]) -> list[Link]:
    """Word by word where as many stand on both sides; else all of the one for all of the other."""
    if len(gone) == len(come):
        return list(zip(gone, come, strict=True))
    return [([*chain.from_iterable(gone)], [*chain.from_iterable(come)])]


def _frame(source: Prompt, target: Prompt) -> Iterator[Link]:
    """Start, end, and padding by its number; the target's last takes what the source has more."""
    yield [START], [START]
    yield [source.end], [target.end]
    old, new = range(source.end + 1, source.length), range(target.end + 1, target.length)
    yield from (([i], [j]) for i, j in zip(old, new, strict=False))
    if len(old) > len(new):
        yield old[len(new) :], [target.length - 1]


def _spread(matrix: Tensor, old: Sequence[int], new: Sequence[int]) -> None:
    """One to one where as many tokens stand on both sides; else all alike, the mass preserved."""
    if len(old) == len(new):
        matrix[list(old), list(new)] = 1
    else:
        matrix[torch.tensor(old)[:, None], torch.tensor(new)] = 1 / len(new)
