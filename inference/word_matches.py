"""Which words of one sentence are those of another: what alignment knows of language.

Words are compared, never looked up; all that is English here are the few that join phrases. A word
that both sentences have is one and the same where it kept its order, or where its phrase moved with
it. It is not where it changed places with others, or went over to another thing:

    a large red circle and a small blue star
    a small blue star and a large red circle    whole phrases moved; red is the red of before
    a large blue circle and a small red star    none moved; blue stands in red's place, and takes it
    a large circle and a small red star         red stands in blue's place, and has left its own
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

CONJUNCTIONS: Final = frozenset({"and", "or", "but", "while"})
"""Words that join what says one thing to what says another."""
JOINTS: Final = CONJUNCTIONS | set(",;.:|!?")
"""Where a phrase ends and another begins."""

_ADJACENT = 1e-3
"""What it is worth that two matches follow each other in both sentences: decides ties only."""

Match = tuple[int, int]
"""(i, j): what is at i in the old sentence is at j in the new one; both count from 0."""


@dataclass(frozen=True, kw_only=True)
class WordMatches:
    """What became of the words of a sentence, and of each of them one thing only.

    Attributes:
        same: Words that both sentences have.
        replaced: Words of the old one, and the words of the new one that stand in their place.
        deleted: Words of the old one that nothing stands for. Words of the new one that are in none
            of these were inserted.
    """

    same: list[Match]
    replaced: list[tuple[list[int], list[int]]]
    deleted: list[int]


def match_words(old: Sequence[str], new: Sequence[str]) -> WordMatches:
    """Compare two sentences, given as their words and punctuation marks in lower case.

    Whole phrases that both have are matched first, wherever they stand. What is left is compared
    as if they were not there: words in the same order are anchors, and what stands between two
    anchors was replaced, deleted or inserted, but for single words that moved (see `_strays`).
    """
    phrases = _shared_phrases(old, new)
    rest, new_rest = _without(len(old), phrases, 0), _without(len(new), phrases, 1)
    found = _anchors([old[i] for i in rest], [new[j] for j in new_rest])
    anchors = [(rest[i], new_rest[j]) for i, j in found]
    gaps = [
        ([rest[i] for i in gone], [new_rest[j] for j in come])
        for gone, come in _gaps(found, len(rest), len(new_rest))
    ]
    strays = _strays(old, new, anchors, gaps)
    gone_on, come_from = {i for i, _ in strays}, {j for _, j in strays}
    replaced, deleted = [], []
    for olds, news in gaps:
        gone = [i for i in olds if i not in gone_on]
        come = [j for j in news if j not in come_from]
        if gone and come:
            replaced.append((gone, come))
        else:
            deleted += gone
    return WordMatches(same=[*phrases, *anchors, *strays], replaced=replaced, deleted=deleted)


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[Match]:
    """Words in the same order: as many as there are, unless two parts changed places.

    Then what they stand around is the frame, be it ever so short: of "a very old red cup on a dish"
    and "a dish on a very old red cup", that is "on".
    """
    head, tail = _ends(old, new)
    size = len(old) - head - tail
    if len(old) != len(new):
        return shared_words(old, new)
    was, became = list(old[head : head + size]), list(new[head : head + size])
    for one in range(1, size - 1):  # words of the first part
        for other in range(1, size - one):
            frame = was[one : size - other]
            if was[size - other :] + frame + was[:one] == became:
                ends = [*range(head), *range(head + size, len(old))]
                inner = [(head + one + n, head + other + n) for n in range(len(frame))]
                return sorted([*((n, n) for n in ends), *inner])
    return shared_words(old, new)


def _ends(old: Sequence[str], new: Sequence[str]) -> tuple[int, int]:
    """How many words two sentences share at their beginning, and then at their end."""
    least = min(len(old), len(new))
    head = next((n for n in range(least) if old[n] != new[n]), least)
    tail = next((n for n in range(least - head) if old[-1 - n] != new[-1 - n]), least - head)
    return head, tail


def shared_words(old: Sequence[object], new: Sequence[object]) -> list[Match]:
    """Longest common subsequence of two sentences: (i, j) with `old[i] == new[j]`, both rising.

    Of several, the one that tears the fewest neighbours apart.
    """
    return _in_order([[one == other for other in new] for one in old], len(new))


def _in_order(alike: Sequence[Sequence[bool]], width: int) -> list[Match]:
    """The longest rising path through what is alike; see `shared_words`."""
    height = len(alike)
    # `best[i][j]` is what old[i:] and new[j:] are worth; `met[i][j]`, if old[i] and new[j] match.
    best = [[0.0] * (width + 1) for _ in range(height + 1)]
    met = [[float("-inf")] * (width + 1) for _ in range(height + 1)]
    for i in reversed(range(height)):
        for j in reversed(range(width)):
            if alike[i][j]:
                met[i][j] = 1 + max(best[i + 1][j + 1], met[i + 1][j + 1] + _ADJACENT)
            best[i][j] = max(met[i][j], best[i + 1][j], best[i][j + 1])
    anchors = []
    i = j = 0
    follows = False
    while i < height and j < width:
        if met[i][j] + _ADJACENT * follows >= best[i][j] and met[i][j] > 0:
            anchors.append((i, j))
            i, j, follows = i + 1, j + 1, True
        elif best[i + 1][j] >= best[i][j + 1]:
            i, follows = i + 1, False
        else:
            j, follows = j + 1, False
    return anchors


# --- phrases -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Phrase:
    """Words between two joints; those before `begin` and from `end` on both sentences share.

    "a photo of a cat and a dog, at night" shares its first four and its last three words with its
    edit "a photo of a dog and a cat, at night", and they belong to the whole, not to a phrase.
    """

    first: int
    begin: int
    end: int
    last: int


def _shared_phrases(old: Sequence[str], new: Sequence[str]) -> list[Match]:
    """The words of whole phrases that both sentences have."""
    head, tail = _ends(old, new)
    phrases, new_phrases = list(_phrases(old, head, tail)), list(_phrases(new, head, tail))
    runs = [[_run(old, new, one, other) for other in new_phrases] for one in phrases]
    alike = [[bool(run) for run in row] for row in runs]
    kept = _in_order(alike, len(new_phrases))
    return [
        match
        for p, q in [*kept, *_left_over(alike, kept, len(new_phrases))]
        for match in runs[p][q]
    ]


def _phrases(words: Sequence[str], head: int, tail: int) -> Iterator[_Phrase]:
    """The phrases of a sentence that have words outside its head and tail."""
    joints = [place for place, word in enumerate(words) if word in JOINTS]
    for before, after in pairwise([-1, *joints, len(words)]):
        begin, end = max(before + 1, head), min(after, len(words) - tail)
        if begin < end:
            yield _Phrase(first=before + 1, begin=begin, end=end, last=after)


def _run(old: Sequence[str], new: Sequence[str], one: _Phrase, other: _Phrase) -> list[Match]:
    """The words by which two phrases are the same, all of both but for head and tail, or none."""
    for shift in range(other.first - one.last + 1, other.last - one.first):
        begin, end = min(one.begin, other.begin - shift), max(one.end, other.end - shift)
        inside = max(one.first, other.first - shift) <= begin
        inside = inside and end <= min(one.last, other.last - shift)
        if inside and old[begin:end] == new[begin + shift : end + shift]:
            return [(i, i + shift) for i in range(begin, end)]
    return []


# --- single words --------------------------------------------------------------------------------


def _strays(
    old: Sequence[str],
    new: Sequence[str],
    anchors: Sequence[Match],
    gaps: Sequence[tuple[list[int], list[int]]],
) -> list[Match]:
    """Words that moved alone and are still the same.

    Not so those that changed places, two or more in a ring: each stands in another's place. And not
    those that crossed a conjunction which both sentences have: they say something of another thing.
    """
    gone = [(i, gap) for gap, (olds, _) in enumerate(gaps) for i in olds]
    come = [(j, gap) for gap, (_, news) in enumerate(gaps) for j in news]
    alike = [[old[i] == new[j] for j, _ in come] for i, _ in gone]
    moves = [(gone[m], come[n]) for m, n in _left_over(alike, [], len(come))]
    ways: dict[int, set[int]] = {}
    for (_, start), (_, stop) in moves:
        ways.setdefault(start, set()).add(stop)
    conjunctions = [(i, j) for i, j in anchors if old[i] in CONJUNCTIONS]
    return [
        (i, j)
        for (i, start), (j, stop) in moves
        if not _leads(ways, stop, start) and all((i < a) == (j < b) for a, b in conjunctions)
    ]


def _leads(ways: dict[int, set[int]], start: int, stop: int) -> bool:
    """Whether one gets from one gap to another."""
    seen, coming = set[int](), [start]
    while coming:
        here = coming.pop()
        if here == stop:
            return True
        coming += ways.get(here, set()) - seen
        seen.add(here)
    return False


# --- both ----------------------------------------------------------------------------------------


def _left_over(alike: Sequence[Sequence[bool]], taken: Sequence[Match], width: int) -> list[Match]:
    """Of what is alike and not taken, the first for each of the new sentence, in its order."""
    left = [i for i in range(len(alike)) if i not in {i for i, _ in taken}]
    found = []
    for j in [j for j in range(width) if j not in {j for _, j in taken}]:
        same = [i for i in left if alike[i][j]]
        if same:
            found.append((same[0], j))
            left.remove(same[0])
    return found


def _without(length: int, matches: Sequence[Match], side: int) -> list[int]:
    """The places of a sentence that are in no match."""
    matched = {match[side] for match in matches}
    return [place for place in range(length) if place not in matched]


def _gaps(anchors: Sequence[Match], old: int, new: int) -> Iterator[tuple[range, range]]:
    """The places between neighbouring anchors: in the old sentence, in the new one."""
    for (i, j), (k, m) in pairwise([(-1, -1), *anchors, (old, new)]):
        yield range(i + 1, k), range(j + 1, m)
