"""How pairs are rendered, and what is not rendered to its end: the options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator

from data_gen.records import EditTriplet
from inference.choices import SamplerName
from inference.number_types import (
    FractionBelowOne,
    FractionRange,
    Limits,
    NonNegative,
    NonNegativeRange,
    OpenFraction,
    PixelCount,
    PositiveSmallCount,
    checks_numbers,
)

Share = Literal["self", "cross", "both"]


BatchRows = Annotated[int, BeforeValidator(Limits(int, 4, 65_536).read)]
"""UNet rows a call: at least those of one guided source and its target."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class RenderKnobs:
    """How pairs are rendered.

    Attributes:
        share: Attention that source and target share: InstructPix2Pix's self-attention, or
            Prompt-to-Prompt's cross-attention, which keeps more of the source, or both.
        steps: Steps of the sampler.
        seeds: Trees a triplet; each has its own noise and guidance scale.
        seeds_of: Trees for single edit types: what seldom succeeds needs more to choose from.
        branches: Values of p a tree. Few steps leave few different outcomes: where the range holds
            no more of them than this, each is taken once.
        p_range: Range of p; its equal parts, one a branch, are drawn from uniformly.
        p_ranges: Ranges for single edit types: what moves a figure needs a smaller p.
        together: Fraction of the steps that source and target take as one picture, under the
            source's caption, before the edited one sets in; a p below it shares nothing after.
            What has settled by then is the same in both: layout first, colours with it, then
            shapes, then texture (prompt mixing, Patashnik et al. 2023).
        together_of: The same for single edit types: a change of shape can wait for the layout.
        guidance_range: Range that the guidance scale of a tree is drawn from, uniformly. Where it
            is 1 to 1, nothing is guided, which halves the UNet rows; distilled models want that.
        sampler: Name of the sampler.
        size: Side of the square images in pixels; None for what the model was made for.
        batch_rows: UNet rows a call, at most. Two for each image in the making, one if unguided.
    """

    share: Share = "self"
    steps: PositiveSmallCount = 25
    seeds: PositiveSmallCount = 4
    seeds_of: Mapping[str, PositiveSmallCount] = field(default_factory=dict)
    branches: PositiveSmallCount = 4
    p_range: FractionRange = (0.1, 0.9)
    p_ranges: Mapping[str, FractionRange] = field(default_factory=dict)
    together: FractionBelowOne = 0.0
    together_of: Mapping[str, FractionBelowOne] = field(default_factory=dict)
    guidance_range: NonNegativeRange = (7.5, 15.0)
    sampler: SamplerName = "euler_ancestral"
    size: PixelCount | None = None
    batch_rows: BatchRows = 64

    def seeds_for(self, triplet: EditTriplet) -> int:
        """How many trees a triplet gets."""
        return self.seeds_of.get(triplet.edit_type, self.seeds)


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class EarlyKnobs:
    """What is not rendered to its end. All of it is off by default.

    Attributes:
        source: Give up a tree once its finished source fails what its candidates would fail: the
            same pairs are kept, and the tree's suffixes cost nothing.
        draft_at: Fraction of the steps after which a candidate is given up whose expected image
            (the x0 that the model predicts) fails a similarity by more than ``slack``; null never.
            Early, good ones fail too: at half of the steps of a stochastic sampler, many.
        slack: How far a draft may stay below a threshold.
        p_in_turn: Finish the values of p of a seed one by one, the largest first, which costs
            least, and no more of them once a candidate passes. That one is then the seed's, where
            otherwise its best is; a scorer that is asked last may still object to it.
        enough: Give a triplet no more seeds once ``filter.keep`` of its pairs, of different seeds,
            pass. It then keeps the first that pass, where otherwise the best of all are kept.
    """

    source: bool = False
    draft_at: OpenFraction | None = None
    slack: NonNegative = 0.1
    p_in_turn: bool = False
    enough: bool = False
