"""The prefix tree over p: which states are denoised, from which step, in which UNet calls.

A candidate of InstructPix2Pix's renderer is a source and a target that share attention for the
first fraction p of the steps. For one (triplet, seed, guidance) the source does not depend on p,
and two targets are the same until the smaller p. So all candidates are one tree: the *source*, the
*trunk* (the target that shares longest), and one *suffix* a smaller p, which begins as a copy of
the trunk at its own fork and never shares. A step then costs 2 + 2·p_max + 2·Σ(1 - pᵢ) UNet rows
instead of 4k, for exactly the same images.

Pure planning on integers; nothing here knows of models or images. A *state* is the latents of one
trajectory, and costs two UNet *rows* a step: unconditional and conditional.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


def shared_steps(p: float, steps: int) -> int:
    """Count the steps i, from 0, with ``i / (steps - 1) < p`` (InstructPix2Pix's reference code).

    Args:
        p: Fraction; above 1 shares all steps.
        steps: At least 2.
    """
    return sum(i / (steps - 1) < p for i in range(steps))


def unet_rows(ps: Sequence[float], steps: int) -> int:
    """Count the UNet rows of a whole tree: 2 + 2·p_max + 2·Σ(1 - pᵢ) a step, in whole steps.

    Values of p that share the same steps give the same image and are counted once.

    Args:
        ps: At least one.
        steps: At least 2.
    """
    forks = {shared_steps(p, steps) for p in ps}
    return 2 * steps + 2 * max(forks) + 2 * sum(steps - fork for fork in forks)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One UNet call.

    Attributes:
        states: The states it moves by one step.
        sources: Positions in ``states`` of sources whose trunk shares with them in this call.
        trunks: Positions of those trunks, pairwise.
    """

    states: tuple[int, ...]
    sources: tuple[int, ...]
    trunks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happens at one step, in this order.

    Attributes:
        forks: Pairs (trunk, suffix) of states: the suffix becomes a copy of the trunk.
        calls: UNet calls; together they move every living state once.
    """

    forks: tuple[tuple[int, int], ...]
    calls: tuple[Call, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How several trees are rendered together, all at the same step.

    Attributes:
        tree_of: State -> its tree.
        source_of: Tree -> state of its source.
        targets_of: Tree -> state of each of its p, in the order given; equal steps, equal state.
        steps: What happens at each step.
    """

    tree_of: tuple[int, ...]
    source_of: tuple[int, ...]
    targets_of: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]

    @property
    def rows(self) -> int:
        """UNet rows of all calls."""
        return sum(2 * len(call.states) for step in self.steps for call in step.calls)


@dataclass(frozen=True, kw_only=True)
class _Branches:
    """One tree's states: the source, and one target for each distinct fork."""

    source: int
    targets: dict[int, int]

    @property
    def last_fork(self) -> int:
        return max(self.targets)

    @property
    def trunk(self) -> int:
        return self.targets[self.last_fork]


def plan(trees: Sequence[Sequence[float]], *, steps: int, batch_rows: int) -> Plan:
    """Plan the rendering of several trees, a function of the arguments alone.

    Args:
        trees: The values of p of each tree, at least one each.
        steps: Steps of the sampler, at least 2.
        batch_rows: UNet rows a call, at most; at least 4 (a source and its trunk, two rows each).

    Returns:
        The plan.
    """
    branches: list[_Branches] = []
    tree_of: list[int] = []
    for tree, ps in enumerate(trees):
        forks = sorted({shared_steps(p, steps) for p in ps})
        first = len(tree_of)
        targets = {fork: first + 1 + n for n, fork in enumerate(forks)}
        branches.append(_Branches(source=first, targets=targets))
        tree_of += [tree] * (1 + len(forks))
    return Plan(
        tree_of=tuple(tree_of),
        source_of=tuple(tree.source for tree in branches),
        targets_of=tuple(
            tuple(tree.targets[shared_steps(p, steps)] for p in ps)
            for tree, ps in zip(branches, trees, strict=True)
        ),
        steps=tuple(
            Step(
                forks=tuple(_forks(branches, i)),
                calls=tuple(_calls(branches, i, batch_rows // 2)),
            )
            for i in range(steps)
        ),
    )


def _forks(branches: Iterable[_Branches], i: int) -> Iterator[tuple[int, int]]:
    for tree in branches:
        suffix = tree.targets.get(i)
        if suffix is not None and suffix != tree.trunk:
            yield tree.trunk, suffix


def _calls(branches: Sequence[_Branches], i: int, capacity: int) -> Iterator[Call]:
    """Fill calls of ``capacity`` states: first what must stay together, then what goes anywhere."""
    sharing = [tree for tree in branches if i < tree.last_fork]
    together = [(tree.source, tree.trunk) for tree in sharing]
    alone = [tree.source for tree in branches if i >= tree.last_fork]
    alone += [state for tree in branches for fork, state in tree.targets.items() if fork <= i]
    pairs_a_call = capacity // 2
    while together or alone:
        pairs, together = together[:pairs_a_call], together[pairs_a_call:]
        room = capacity - 2 * len(pairs)
        singles, alone = alone[:room], alone[room:]
        yield Call(
            states=tuple(state for pair in pairs for state in pair) + tuple(singles),
            sources=tuple(range(0, 2 * len(pairs), 2)),
            trunks=tuple(range(1, 2 * len(pairs), 2)),
        )
