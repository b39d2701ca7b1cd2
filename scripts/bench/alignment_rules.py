"""Other rules for which words of two prompts belong together, for `exchanged.py` alone."""

from itertools import chain, pairwise

from inference.alignment import Alignment, Link, Prompt, linked
from inference.word_matches import shared_words


def by_number(source: Prompt, target: Prompt, *, substitute: bool) -> Alignment:
    """Word by word, as the authors' replacement, which needs as many words on both sides.

    Theirs goes astray after a word of another number of tokens; this does not.
    """
    assert substitute
    old, new = source.words(), target.words()
    links: list[Link] = [(range(*i), range(*j)) for i, j in zip(old, new, strict=True)]
    return linked(source, target, links, [])


def each_its_own(source: Prompt, target: Prompt, *, substitute: bool) -> Alignment:
    """A word that both prompts have keeps its own map, wherever it stands (ours until 2026-11)."""
    assert substitute
    old, new = ([range(*span) for span in prompt.words()] for prompt in (source, target))
    spelt, anew = source.spellings(), target.spellings()
    anchors = shared_words(spelt, anew)
    moved = _moved(spelt, anew, anchors)
    links: list[Link] = [(old[i], new[j]) for i, j in [*anchors, *moved]]
    elsewhere, from_elsewhere = {i for i, _ in moved}, {j for _, j in moved}
    deleted: list[int] = []
    edges = [(-1, -1), *anchors, (len(old), len(new))]
    for (i, j), (k, m) in pairwise(edges):
        gone = [old[n] for n in range(i + 1, k) if n not in elsewhere]
        come = [new[n] for n in range(j + 1, m) if n not in from_elsewhere]
        if not come:
            deleted += chain.from_iterable(gone)
        elif len(gone) == len(come):
            links += zip(gone, come, strict=True)
        elif gone:
            links.append(([*chain.from_iterable(gone)], [*chain.from_iterable(come)]))
    return linked(source, target, links, deleted)


def _moved(old: list[str], new: list[str], anchors: list[tuple[int, int]]) -> list[tuple[int, int]]:
    left = [i for i in range(len(old)) if i not in {i for i, _ in anchors}]
    moved = []
    for j in [j for j in range(len(new)) if j not in {j for _, j in anchors}]:
        same = [i for i in left if old[i] == new[j]]
        if same:
            moved.append((same[0], j))
            left.remove(same[0])
    return moved
