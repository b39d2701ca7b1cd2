"""From triplets to judged pairs: rounds of rendering and scoring, and what is not worth finishing.

Each round renders as many trees as fill the UNet's calls, from as many triplets as it takes, scores
what came of them, and asks which triplets need more. What is given up early, and when there is
enough, is said by `EarlyKnobs`; without them every candidate of every seed is made, as
InstructPix2Pix did. How rounds are composed depends on the triplets and the knobs alone.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from data_gen.judging.config import FilterKnobs, Thresholds
from data_gen.judging.filter import failing, image_features, score, select, thresholds_of
from data_gen.judging.scorers import Scorer, add_score
from data_gen.judging.surprise import Surprise
from data_gen.records import EditTriplet, GivenUp, ImageArray, ImagePair, Rendered, Verdict
from data_gen.rendering.config import EarlyKnobs, RenderKnobs
from data_gen.rendering.grown import NOT_FINITE, Grown
from data_gen.rendering.pairs import NotFinite, rejection, render_trees
from data_gen.rendering.trees import Tree, draw_tree
from data_gen.rendering.watch import Draft
from inference.backbone import Backbone
from inference.clip import CaptionTooLong, ClipScorer, compare


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Renders triplets and judges what comes of them.

    Attributes:
        backbone: A text-to-image model.
        scorer: The CLIP model.
        render: How pairs are rendered.
        filter: What is kept.
        early: What is not rendered to its end.
        scorers: Who looks at pairs beside CLIP and the model itself.
        progress: Called after every UNet call with its number of rows.
    """

    backbone: Backbone
    scorer: ClipScorer
    render: RenderKnobs
    filter: FilterKnobs
    early: EarlyKnobs = field(default_factory=EarlyKnobs)
    scorers: Sequence[Scorer] = ()
    progress: Callable[[int], object] | None = None

    def __call__(self, triplets: Sequence[EditTriplet]) -> Iterator[tuple[Rendered, list[Verdict]]]:
        """Yield what came of each triplet, in their order, with one verdict a finished candidate.

        Raises:
            ValueError: The backbone is not a text-to-image model, or cannot make images of the
                size; or thresholds are missing.
            NotFinite: Not one of all pictures is finite: the precision does not suffice.
        """
        thresholds = thresholds_of(self.filter, self.scorer)
        surprise = Surprise(backbone=self.backbone)
        own = [surprise] if "surprise" in self.filter.bounded else []
        dear = [*own, *(scorer for scorer in self.scorers if scorer.dear)]
        watch = _ClipWatch(self, thresholds, surprise)
        coming, opened = deque(triplets), deque[_Making]()
        spent: dict[str, float] = defaultdict(float)  # seconds since the last triplet was done
        rendered = finite = False
        while coming or opened:
            makings = self._next_trees(opened, coming, thresholds)
            trees = [tree for _, tree in makings]
            begun = time.perf_counter()
            grown = render_trees(
                self.backbone, trees, self.render, watch=watch, progress=self.progress
            )
            drawn = time.perf_counter()
            rendered, finite = rendered or bool(grown), finite or any(map(_is_finite, grown))
            self._add(makings, [watch.with_scores(one.pairs) for one in grown])
            for (making, _), one in zip(makings, grown, strict=True):
                making.given_up += one.given_up
            self._ask_dear(opened, thresholds, dear)
            spent["render"] += drawn - begun
            spent["score"] += time.perf_counter() - drawn
            while opened and not self._wanted(opened[0], thresholds):
                made = opened.popleft()
                yield made.rendered(dict(spent)), made.verdicts(thresholds, self.filter)
                spent.clear()
        if rendered and not finite:
            raise NotFinite(self.backbone)

    def _next_trees(
        self, opened: "deque[_Making]", coming: deque[EditTriplet], thresholds: Thresholds
    ) -> "list[tuple[_Making, Tree]]":
        """Trees for a round: of the triplets begun, and of so many new ones as there is room."""
        found: list[tuple[_Making, Tree]] = []
        # As many trees as a call holds states: two full calls at the first step, more later.
        room = max(1, self.render.batch_rows // 2)
        for making in opened:
            found += making.next_trees(
                min(self._wanted(making, thresholds), room - len(found)), self.render
            )
        while coming and len(found) < room:
            opened.append(_Making(coming.popleft()))
            opened[-1].reason = self._rejection(opened[-1].triplet)
            wanted = self._wanted(opened[-1], thresholds)
            found += opened[-1].next_trees(min(wanted, room - len(found)), self.render)
        return found

    def _wanted(self, making: "_Making", thresholds: Thresholds) -> int:
        """How many more seeds a triplet is to have, as far as is known now."""
        if making.reason is not None:
            return 0
        left = self.render.seeds_for(making.triplet) - making.seeds
        if not self.early.enough:
            return left
        passing = [
            pair
            for pair in making.pairs
            if pair.scores and failing(pair.scores, thresholds, self.filter) is None
        ]
        seeds = {pair.seed_index for pair in passing}
        have = len(seeds) if self.filter.best_p_per_seed else len(passing)
        return min(left, max(0, self.filter.keep - have))

    def _rejection(self, triplet: EditTriplet) -> str | None:
        """Why a triplet cannot be rendered, or could not be judged."""
        try:
            self.scorer.check_lengths([triplet.caption, triplet.edited_caption])
        except CaptionTooLong:
            return f"a caption exceeds CLIP's {self.scorer.context_length} tokens"
        return rejection(self.backbone, triplet)

    def _add(
        self,
        makings: "Sequence[tuple[_Making, Tree]]",
        pairs: Sequence[Sequence[ImagePair]],
    ) -> None:
        """Score the pairs of a round that have no scores yet, and hand all to their triplets."""
        new = [pair for some in pairs for pair in some if pair.scores is None]
        judged = iter(self.cheaply_scored(new))
        for (making, _), some in zip(makings, pairs, strict=True):
            making.pairs += [next(judged) if pair.scores is None else pair for pair in some]

    def cheaply_scored(self, pairs: Sequence[ImagePair]) -> list[ImagePair]:
        """Pairs with the scores of all scorers that are not dear."""
        found = score(pairs, self.scorer) if pairs else []
        for scorer in self.scorers:
            found = found if scorer.dear else add_score(found, scorer)
        return found

    def _ask_dear(
        self, opened: "Iterable[_Making]", thresholds: Thresholds, dear: Sequence[Scorer]
    ) -> None:
        """Show the dear scorers those pairs that are to be kept unless they object.

        Where one objects, the next best comes in its place, so that what is kept is what would be
        if all pairs had been shown to them.
        """
        complete = [
            making
            for making in opened
            if self.early.enough or making.seeds == self.render.seeds_for(making.triplet)
        ]
        todo = deque(dear)
        while todo:
            scorer = todo.popleft()
            asked = [
                (making, pair)
                for making in complete
                for pair in making.hoped_for(thresholds, self.filter)
                if pair.scores and getattr(pair.scores, scorer.name) is None
            ]
            found = add_score([pair for _, pair in asked], scorer)
            for (making, _), pair in zip(asked, found, strict=True):
                making.replace(pair)
            if asked:
                todo = deque(dear)  # what comes in the place of another has been shown to nobody


def _is_finite(grown: Grown) -> bool:
    """Whether any candidate of a tree had finite pictures, as far as they were made."""
    return bool(grown.pairs) or any(lost.reason != NOT_FINITE for lost in grown.given_up)


class _Making:
    """A triplet in the making."""

    def __init__(self, triplet: EditTriplet) -> None:
        self.triplet = triplet
        self.seeds = 0
        self.pairs: list[ImagePair] = []
        self.given_up: list[GivenUp] = []
        self.reason: str | None = None

    def next_trees(self, count: int, knobs: RenderKnobs) -> "list[tuple[_Making, Tree]]":
        """The trees of its next seeds."""
        seeds = range(self.seeds, self.seeds + count)
        self.seeds += count
        return [(self, draw_tree(self.triplet, seed, knobs)) for seed in seeds]

    def verdicts(self, thresholds: Thresholds, knobs: FilterKnobs) -> list[Verdict]:
        """Verdicts, if all that is not known of the pairs, yet or ever, were good."""
        return select(self.pairs, thresholds, knobs, hopeful=True)

    def hoped_for(self, thresholds: Thresholds, knobs: FilterKnobs) -> list[ImagePair]:
        """The pairs that would then be kept."""
        return [one.pair for one in self.verdicts(thresholds, knobs) if one.reason is None]

    def replace(self, scored: ImagePair) -> None:
        """Put a pair in the place of itself."""
        self.pairs = [scored if pair.key == scored.key else pair for pair in self.pairs]

    def rendered(self, seconds: Mapping[str, float]) -> Rendered:
        return Rendered(
            triplet=self.triplet,
            pairs=tuple(self.pairs),
            given_up=tuple(self.given_up),
            reason=self.reason,
            seconds=seconds,
        )


class _ClipWatch:
    """Gives up what CLIP, or the generator itself, would turn down in the end."""

    def __init__(self, painter: Painter, thresholds: Thresholds, surprise: Surprise) -> None:
        self.painter, self.thresholds, self.surprise = painter, thresholds, surprise
        self.draft_at, self.p_in_turn = painter.early.draft_at, painter.early.p_in_turn
        self._scored: dict[str, ImagePair] = {}  # by key, until they are asked for

    def sources(
        self, triplets: Sequence[EditTriplet], images: Sequence[ImageArray]
    ) -> Sequence[str | None]:
        """See `Watch`: a candidate's score of its source is this one."""
        if not self.painter.early.source:
            return [None] * len(images)
        captions = [triplet.caption for triplet in triplets]
        features = image_features(images, self.painter.scorer)
        least = self.thresholds.text_source
        likeness = (features * self.painter.scorer.text(captions)).sum(dim=-1).tolist()
        reasons = [None if one >= least else f"source: text_source < {least:g}" for one in likeness]
        most = self.painter.filter.at_most.get("surprise")
        if most is not None:
            found = self.surprise.look(images, captions)
            reasons = [
                reason or (None if one <= most else f"source: surprise > {most:g}")
                for reason, one in zip(reasons, found, strict=True)
            ]
        return reasons

    def drafts(self, drafts: Sequence[Draft]) -> Sequence[str | None]:
        """See `Watch`."""
        scorer, slack = self.painter.scorer, self.painter.early.slack
        pictures = image_features(
            [draft.source for draft in drafts] + [draft.edited for draft in drafts], scorer
        )
        texts = scorer.text(
            [draft.triplet.caption for draft in drafts]
            + [draft.triplet.edited_caption for draft in drafts]
        )
        values = compare(*pictures.chunk(2), *texts.chunk(2))
        below = {
            f"draft: {name} < {getattr(self.thresholds, name) - slack:g}": found
            < getattr(self.thresholds, name) - slack
            for name, found in values.items()
        }
        return [_first(below, row) for row in range(len(drafts))]

    def passes(self, pairs: Sequence[ImagePair]) -> Sequence[bool]:
        """See `Watch`."""
        found = self.painter.cheaply_scored(pairs)
        self._scored |= {pair.key: pair for pair in found}
        knobs = self.painter.filter
        return [
            pair.scores is not None
            and failing(pair.scores, self.thresholds, knobs, hopeful=True) is None
            for pair in found
        ]

    def with_scores(self, pairs: Sequence[ImagePair]) -> list[ImagePair]:
        """Finished pairs, with scores where it was asked whether they pass."""
        return [self._scored.pop(pair.key, pair) for pair in pairs]


def _first(reasons: dict[str, torch.Tensor], row: int) -> str | None:
    return next((reason for reason, holds in reasons.items() if holds[row]), None)
