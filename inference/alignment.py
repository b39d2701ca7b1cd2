"""Which tokens of two prompts belong together: what Prompt-to-Prompt knows of language.

Words are found in the text and then looked up among the tokens by their places, so punctuation,
capitals, double spaces, words of several tokens and tokens added to the vocabulary (`<new1>`) need
no rules of their own. Words that both prompts share, in order, are anchors; what stands between two
anchors was substituted, deleted or inserted.

Positions count the start token as 0, as the columns of a cross-attention map do.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor

from inference.backbone import PromptTooLong

START = 0
"""Position of the start token, which attention rests on where it looks at no word."""

_WORD = re.compile(r"\w+|[^\w\s]")
_OCCURRENCE = re.compile(r"(.*\S)@(\d+)")
_CHARACTERS = re.compile(r"@(\d+):(\d+)")
_ADJACENT = 1e-3
"""What it is worth that two shared words follow each other in both prompts: decides ties only."""

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
    matrix = torch.zeros(source.length, target.length)
    links, deleted = _compare(source, target, substitute=substitute)
    for old, new in [*links, *_frame(source, target)]:
        _spread(matrix, old, new)
    taken = matrix.any(dim=0)
    taken[target.end :] = True  # padding beyond the source's takes none, so that no mass is added
    matrix[deleted, START] = 1
    return Alignment(matrix=matrix, taken=taken)


Link = tuple[Sequence[int], Sequence[int]]
"""Positions in the source, and those in the target that take their attention."""


def _compare(source: Prompt, target: Prompt, *, substitute: bool) -> tuple[list[Link], list[int]]:
    """Links between words, and the positions of source words that nothing stands for."""
    old, new = ([range(*span) for span in prompt.words()] for prompt in (source, target))
    spelt, anew = _spellings(source), _spellings(target)
    anchors = shared_words(spelt, anew)
    moved = _moved_words(spelt, anew, anchors)
    links: list[Link] = [(old[i], new[j]) for i, j in [*anchors, *moved]]
    elsewhere, from_elsewhere = {i for i, _ in moved}, {j for _, j in moved}
    deleted: list[int] = []
    for olds, news in _gaps(anchors, len(old), len(new)):
        gone = [old[i] for i in olds if i not in elsewhere]
        come = [new[j] for j in news if j not in from_elsewhere]
        if not come:
            deleted += chain.from_iterable(gone)
        elif gone and substitute:
            links += _substitution(gone, come)
    return links, deleted


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


def _spellings(prompt: Prompt) -> list[tuple[int, ...]]:
    return [prompt.ids[first - 1 : last - 1] for first, last in prompt.words()]


def shared_words(old: Sequence[object], new: Sequence[object]) -> list[tuple[int, int]]:
    """Longest common subsequence of two sentences: (i, j) with `old[i] == new[j]`, both rising.

    Of several, the one that tears the fewest neighbours apart.
    """
    # `best[i][j]` is what old[i:] and new[j:] are worth; `met[i][j]`, if old[i] and new[j] match.
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    met = [[float("-inf")] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            if old[i] == new[j]:
                met[i][j] = 1 + max(best[i + 1][j + 1], met[i + 1][j + 1] + _ADJACENT)
            best[i][j] = max(met[i][j], best[i + 1][j], best[i][j + 1])
    anchors = []
    i = j = 0
    follows = False
    while i < len(old) and j < len(new):
        if met[i][j] + _ADJACENT * follows >= best[i][j] and met[i][j] > 0:
            anchors.append((i, j))
            i, j, follows = i + 1, j + 1, True
        elif best[i + 1][j] >= best[i][j + 1]:
            i, follows = i + 1, False
        else:
            j, follows = j + 1, False
    return anchors


def _moved_words(
    old: Sequence[object], new: Sequence[object], anchors: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Words that both sentences hold, but in another order: (i, j)."""
    left = [i for i in range(len(old)) if i not in {i for i, _ in anchors}]
    moved = []
    for j in range(len(new)):
        same = [i for i in left if old[i] == new[j]]
        if same and j not in {j for _, j in anchors}:
            moved.append((same[0], j))
            left.remove(same[0])
    return moved


def _gaps(anchors: Sequence[tuple[int, int]], old: int, new: int) -> Iterator[tuple[range, range]]:
    """The words between neighbouring anchors: in the source, in the target."""
    for (i, j), (k, m) in pairwise([(-1, -1), *anchors, (old, new)]):
        yield range(i + 1, k), range(j + 1, m)
