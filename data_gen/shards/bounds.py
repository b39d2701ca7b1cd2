"""Which pairs of a data set are read, by their scores: filtering after the fact."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from data_gen.shards.members import SCORES

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class ScoreBounds:
    """Which pairs are read: what their scores must be, by the names of `Scores`.

    A score that is not known keeps no bound.

    Attributes:
        least: Score -> what it must at least be, such as ``{directional: 0.25}``.
        most: Score -> what it may at most be, such as ``{surprise: 0.01}``.
    """

    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted({*self.least, *self.most} - set(SCORES)):
            raise ValueError(f"there are no scores {unknown}, expected some of {list(SCORES)}")

    def of(self, table: "pa.Table") -> "pa.Table":
        """The rows of an index that keep to them."""
        for name, bound in self.least.items():
            table = table.filter(pc.greater_equal(table[name], bound))
        for name, bound in self.most.items():
            table = table.filter(pc.less_equal(table[name], bound))
        return table
