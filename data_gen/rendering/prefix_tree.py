"""The prefix tree over p: which states are denoised, from which step, in which UNet calls.

A candidate of InstructPix2Pix's renderer is a source and a target that share attention for the
first fraction p of the steps. For one (triplet, seed, guidance) the source does not depend on p,
and two targets are the same until the smaller p. So all candidates are one tree: the *source*, the
*trunk* (the target that shares longest), and one *suffix* a smaller p, which begins as a copy of
the trunk at its own fork and never shares. A step then costs 2 + 2·p_max + 2·Σ(1 - pᵢ) UNet rows
instead of 4k, for exactly the same images.

Source and target may also go their first steps *together*, as one picture under the source's
caption (prompt mixing, Patashnik et al. 2023): what has settled by then, such as the layout, is the
same in both. The trunk then begins as a copy of the source, and what it would have cost is saved.

A tree grows in two goes: first its *root*, the source to its end and the trunk to its last fork;
then, from their forks on, the targets that are still wanted. What nobody wants once the source is
seen costs nothing.

Pure planning on integers; nothing here knows of models or images. A *state* is the latents of one
trajectory, and costs two UNet *rows* a step: unconditional and conditional.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest


def shared_steps(p: float, steps: int) -> int:
    """Count the steps i, from 0, with ``i / (steps - 1) < p`` (InstructPix2Pix's reference code).

    Args:
        p: Fraction; above 1 shares all steps.
        steps: At least 1; where it is 1, any p above 0 shares it.
    """
    return sum(i / max(1, steps - 1) < p for i in range(steps))


def steps_together(together: float, steps: int) -> int:
    """Count the steps that source and target take as one: as for p, but never all of them.

    Args:
        together: Fraction.
        steps: At least 1.
    """
    return min(shared_steps(together, steps), steps - 1)


def forks_of(ps: Sequence[float], steps: int, together: float = 0.0) -> list[int]:
    """The steps before which the targets of a tree cease to share, one for each of its ps.

    Equal ones are one and the same image, and none is before source and target part.
    """
    apart = steps_together(together, steps)
    return [max(apart, shared_steps(p, steps)) for p in ps]


def unet_rows(ps: Sequence[float], steps: int, together: float = 0.0) -> int:
    """Count the UNet rows of a whole tree: 2 + 2·(p_max - q) + 2·Σ(1 - pᵢ) a step, in whole steps.

    Values of p that share the same steps give the same image and are counted once; q is the
    fraction of the steps that source and target take together, and no p counts as less.

    Args:
        ps: At least one.
        steps: At least 1.
        together: The q.
    """
    forks = set(forks_of(ps, steps, together))
    trunk = max(forks) - steps_together(together, steps)
    return 2 * steps + 2 * trunk + 2 * sum(steps - fork for fork in forks)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One UNet call.

    Attributes:
        states: The states it moves by one step.
        sources: Positions in ``states`` of sources whose trunk shares with them in this call.
        trunks: Positions of those trunks, pairwise.
    """

    states: tuple[int, ...]
    sources: tuple[int, ...] = ()
    trunks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How several trees are rendered together, all at the same step.

    Attributes:
        steps: Steps of the sampler.
        tree_of: State -> its tree.
        source_of: Tree -> state of its source.
        trunk_of: Tree -> state of the target that shares longest.
        targets_of: Tree -> state of each of its p, in the order given; equal steps, equal state.
        forks: Target -> the step before which it leaves the trunk, or, if it is the trunk, before
            which it no longer shares.
        apart: Tree -> the step before which its trunk leaves the source.
        capacity: States a call, at most.
    """

    steps: int
    tree_of: tuple[int, ...]
    source_of: tuple[int, ...]
    trunk_of: tuple[int, ...]
    targets_of: tuple[tuple[int, ...], ...]
    forks: Mapping[int, int]
    apart: tuple[int, ...]
    capacity: int

    def copies_of(self, i: int) -> Iterator[tuple[int, int]]:
        """Pairs of states: before step i the second becomes a copy of the first.

        The first is a source or a trunk, and is not itself among the copies.
        """
        for target, fork in self.forks.items():
            tree = self.tree_of[target]
            source, trunk, apart = self.source_of[tree], self.trunk_of[tree], self.apart[tree]
            if i == apart and (target == trunk or fork == apart):
                yield source, target
            elif i == fork and target != trunk:
                yield trunk, target

    def root_calls(self, i: int) -> Iterator[Call]:
        """The UNet calls that move all sources, and the trunks that share, past step i."""
        pairs, alone = [], []
        for source, trunk, apart in zip(self.source_of, self.trunk_of, self.apart, strict=True):
            if apart <= i < self.forks[trunk]:
                pairs.append((source, trunk))
            else:
                alone.append(source)
        yield from self._filled(pairs, alone)

    def target_calls(self, i: int, wanted: Collection[int]) -> Iterator[Call]:
        """The UNet calls that move the wanted targets that share no longer past step i."""
        yield from self._filled([], [t for t in wanted if self.forks[t] <= i])

    def turns(self, *, one_by_one: bool) -> Iterator[list[int]]:
        """The targets that are grown at once.

        Args:
            one_by_one: One of each tree at a time, the one that shares longest first: its suffix
                is the shortest. False takes all at once.
        """
        if not one_by_one:
            yield list(self.forks)
            return
        own = [sorted(set(some), key=lambda one: -self.forks[one]) for some in self.targets_of]
        for turn in zip_longest(*own):
            yield [target for target in turn if target is not None]

    def _filled(self, pairs: list[tuple[int, int]], alone: list[int]) -> Iterator[Call]:
        """Calls as full as may be: first what must stay together, then what goes anywhere."""
        while pairs or alone:
            together, pairs = pairs[: self.capacity // 2], pairs[self.capacity // 2 :]
            room = self.capacity - 2 * len(together)
            singles, alone = alone[:room], alone[room:]
            yield Call(
                states=tuple(state for pair in together for state in pair) + tuple(singles),
                sources=tuple(range(0, 2 * len(together), 2)),
                trunks=tuple(range(1, 2 * len(together), 2)),
            )


def plan(
    trees: Sequence[Sequence[float]],
    *,
    steps: int,
    capacity: int,
    together: Sequence[float] | None = None,
) -> Plan:
    """Plan the rendering of several trees, a function of the arguments alone.

    Args:
        trees: The values of p of each tree, at least one each.
        together: Fraction of the steps that source and target take as one, of each tree; None for
            0 everywhere.
        steps: Steps of the sampler, at least 1.
        capacity: States a UNet call, at most; at least 2, a source and its trunk.

    Returns:
        The plan.
    """
    tree_of: list[int] = []
    sources, trunks, targets_of = [], [], []
    forks: dict[int, int] = {}
    together = together or [0.0] * len(trees)
    for tree, (ps, part) in enumerate(zip(trees, together, strict=True)):
        sources.append(len(tree_of))
        own = forks_of(ps, steps, part)
        distinct = sorted(set(own))
        states = {fork: sources[-1] + 1 + n for n, fork in enumerate(distinct)}
        trunks.append(states[distinct[-1]])
        targets_of.append(tuple(states[fork] for fork in own))
        forks |= {state: fork for fork, state in states.items()}
        tree_of += [tree] * (1 + len(distinct))
    return Plan(
        steps=steps,
        tree_of=tuple(tree_of),
        source_of=tuple(sources),
        trunk_of=tuple(trunks),
        targets_of=tuple(targets_of),
        forks=forks,
        apart=tuple(steps_together(part, steps) for part in together),
        capacity=capacity,
    )
