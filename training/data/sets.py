"""The data sets of a run: what a recipe says of each, and which of its pairs may be used."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from data_gen.imports.reading import Listing, Reader, open_pairs
from data_gen.shards.cache import Cache
from training.data.config import PairSet


def open_set(knobs: PairSet, cache: Cache | None = None) -> Reader:
    """See `open_pairs`."""
    return open_pairs(
        knobs.path, layout=knobs.layout, columns=knobs.columns, split=knobs.split, cache=cache
    )


def chosen_rows(reader: Listing, knobs: PairSet) -> NDArray[np.int64]:
    """The rows whose scores are within the bounds of `at_least` and `at_most`.

    Raises:
        ValueError: A bound is on a score that the set does not have, or no pair is within.
    """
    if not knobs.at_least and not knobs.at_most:
        return np.arange(len(reader))
    numbers = reader.numbers()
    if unknown := sorted({*knobs.at_least, *knobs.at_most} - set(numbers)):
        known = sorted(name for name, found in numbers.items() if not np.isnan(found).all())
        raise ValueError(
            f"{reader.name} has no score {', '.join(unknown)}; it has {known or 'none'}"
        )
    within = np.ones(len(reader), dtype=bool)
    for name, least in knobs.at_least.items():  # NaN is within no bound
        within &= numbers[name] >= least
    for name, most in knobs.at_most.items():
        within &= numbers[name] <= most
    if not within.any():
        raise ValueError(
            f"of {len(reader):,} pairs of {reader.name} not one has {', '.join(_bounds(knobs))}"
        )
    return np.flatnonzero(within)


def _bounds(knobs: PairSet) -> Iterator[str]:
    yield from (f"{name} >= {least}" for name, least in knobs.at_least.items())
    yield from (f"{name} <= {most}" for name, most in knobs.at_most.items())


def weights_of(sets: Sequence[PairSet], groups: Sequence[int]) -> list[float]:
    """Each set's weight: as the recipe says, or its number of groups.

    Raises:
        ValueError: The recipe says it of some sets only.
    """
    given = [one.weight for one in sets if one.weight is not None]
    if not given:
        return [float(count) for count in groups]
    if len(given) < len(sets):
        silent = [one.path for one in sets if one.weight is None]
        raise ValueError(f"{silent} have no weight, and other sets have: give all or none one")
    return given
