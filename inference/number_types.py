"""The numbers that an option may have: annotated types, and the check of what they say.

Every number of a configuration, a command, a module or a callback is annotated with one of these
types. jsonargparse holds command lines and recipes to them (it takes pydantic's validators), and
`checks_numbers` holds to them what is constructed in Python. For a type checker and at run time
they are plain numbers.

Each has an upper bound: a count of 10**30 can only be a mistake.
"""

import functools
import inspect
import numbers
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BeforeValidator

MOST: Final = 10**12
"""Of what has no narrower bound; none of the numbers here is ever as large."""


@dataclass(frozen=True)
class Limits:
    """The numbers of one kind that lie between two bounds.

    Attributes:
        kind: `int` for whole numbers, `float` for all that are finite.
        least: Lower bound.
        most: Upper bound.
        above: Whether the lower bound itself is excluded.
        below: Whether the upper bound itself is.
    """

    kind: type[int] | type[float]
    least: float
    most: float
    above: bool = False
    below: bool = False

    def admits(self, value: object) -> bool:
        """Whether a value is such a number; NaN is not, nor is a bool."""
        wanted = numbers.Integral if self.kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, wanted):
            return False
        number = cast(float, value)
        lower = self.least < number if self.above else self.least <= number
        return lower and (number < self.most if self.below else number <= self.most)

    def read(self, value: object) -> float:
        """A value that was given as a number or, on a command line, as its text.

        Raises:
            ValueError: It is none of these numbers.
        """
        if isinstance(value, str):
            try:
                value = self.kind(value)
            except ValueError:
                raise ValueError(f"expected {self}") from None
        if not self.admits(value):
            raise ValueError(f"expected {self}")
        return self.kind(cast(float, value))

    def __str__(self) -> str:
        kind = "whole number" if self.kind is int else "number"
        if (self.least, self.most) == (-MOST, MOST):
            return f"a finite {kind}"
        lower = f"above {self.least:,}" if self.above else f"from {self.least:,}"
        upper = f"below {self.most:,}" if self.below else f"to {self.most:,}"
        return f"a {kind} {lower} {upper}"


@dataclass(frozen=True)
class Bounds:
    """Pairs of such numbers, the lower one first."""

    each: Limits

    def admits(self, value: object) -> bool:
        """Whether a value is such a pair."""
        return (
            isinstance(value, tuple | list)
            and len(value) == 2
            and all(map(self.each.admits, value))
            and value[0] <= value[1]
        )

    def read(self, value: object) -> tuple[float, float]:
        """A pair that was given as a tuple or, in a recipe, as a list.

        Raises:
            ValueError: It is none of these pairs.
        """
        if not self.admits(value):
            raise ValueError(f"expected {self}")
        low, high = cast(Sequence[float], value)
        return self.each.kind(low), self.each.kind(high)

    def __str__(self) -> str:
        return f"two numbers, the lower one first, each {self.each}"


_COUNT: Final = Limits(int, 0, MOST)
_POSITIVE_COUNT: Final = Limits(int, 1, MOST)
_SMALL: Final = Limits(int, 0, 10_000)
_POSITIVE_SMALL: Final = Limits(int, 1, 10_000)
_CONNECTIONS: Final = Limits(int, 1, 1000)
_PIXELS: Final = Limits(int, 1, 65_536)
_SEED: Final = Limits(int, 0, 2**63 - 1)
_FINITE: Final = Limits(float, -MOST, MOST)
_NON_NEGATIVE: Final = Limits(float, 0, MOST)
_POSITIVE: Final = Limits(float, 0, MOST, above=True)
_SECONDS: Final = Limits(float, 0, 10**7, above=True)
_FRACTION: Final = Limits(float, 0, 1)
_POSITIVE_FRACTION: Final = Limits(float, 0, 1, above=True)
_FRACTION_BELOW_ONE: Final = Limits(float, 0, 1, below=True)
_OPEN_FRACTION: Final = Limits(float, 0, 1, above=True, below=True)
_SIMILARITY: Final = Limits(float, -1, 1)
_ATTENTION_FACTOR: Final = Limits(float, -2, 2)

Count = Annotated[int, BeforeValidator(_COUNT.read)]
"""How many, none included."""
PositiveCount = Annotated[int, BeforeValidator(_POSITIVE_COUNT.read)]
"""How many, one at least."""
SmallCount = Annotated[int, BeforeValidator(_SMALL.read)]
"""How many of what a machine has or does few of: retries, processes."""
PositiveSmallCount = Annotated[int, BeforeValidator(_POSITIVE_SMALL.read)]
"""The same, one at least: rows of a batch, steps of a sampler, rounds."""
Connections = Annotated[int, BeforeValidator(_CONNECTIONS.read)]
"""Requests in flight to one endpoint; its client keeps no more."""
PixelCount = Annotated[int, BeforeValidator(_PIXELS.read)]
"""A side of a picture."""
Seed = Annotated[int, BeforeValidator(_SEED.read)]
"""What random numbers are a function of."""
Finite = Annotated[float, BeforeValidator(_FINITE.read)]
"""Any number but NaN and the infinities."""
NonNegative = Annotated[float, BeforeValidator(_NON_NEGATIVE.read)]
"""At least 0, and finite."""
Positive = Annotated[float, BeforeValidator(_POSITIVE.read)]
"""Above 0, and finite."""
Seconds = Annotated[float, BeforeValidator(_SECONDS.read)]
"""A time that can be waited for: above 0, and below four months."""
Fraction = Annotated[float, BeforeValidator(_FRACTION.read)]
"""In [0, 1]."""
PositiveFraction = Annotated[float, BeforeValidator(_POSITIVE_FRACTION.read)]
"""In (0, 1]."""
FractionBelowOne = Annotated[float, BeforeValidator(_FRACTION_BELOW_ONE.read)]
"""In [0, 1)."""
OpenFraction = Annotated[float, BeforeValidator(_OPEN_FRACTION.read)]
"""In (0, 1)."""
Similarity = Annotated[float, BeforeValidator(_SIMILARITY.read)]
"""A cosine: in [-1, 1]."""
AttentionFactor = Annotated[float, BeforeValidator(_ATTENTION_FACTOR.read)]
"""What the attention on a word is multiplied by: in [-2, 2] (Prompt-to-Prompt, section 4)."""
FractionRange = Annotated[tuple[float, float], BeforeValidator(Bounds(_FRACTION).read)]
"""Two fractions of [0, 1], the lower one first."""
NonNegativeRange = Annotated[tuple[float, float], BeforeValidator(Bounds(_NON_NEGATIVE).read)]
"""Two numbers of at least 0, the lower one first."""

Checked = TypeVar("Checked", bound=Callable[..., Any])


def checks_numbers(of: Checked) -> Checked:
    """Have a class or a function check the numbers that it is given.

    Of a class it is the arguments of the constructor, before anything else is done with them. A
    dataclass is decorated outside of `dataclass`.

    Raises:
        ValueError: From then on, where a number is not as its annotation says.
    """
    if isinstance(of, type):
        of.__init__ = _checking(of.__init__, of.__qualname__)  # type: ignore[misc]
        return of
    return cast(Checked, _checking(of, of.__name__))


def _checking(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    signature = inspect.signature(call)

    @functools.cache
    def hints() -> Mapping[str, object]:
        found = get_type_hints(call, include_extras=True)
        return {name: hint for name, hint in found.items() if is_number(hint)}

    @functools.wraps(call)
    def checking(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = {}  # the call itself says it better
        for key in given.keys() & hints().keys():
            require(f"{name}.{key}", given[key], hints()[key])
        return call(*args, **kwargs)

    return checking


def require(name: str, value: object, hint: object) -> None:
    """Require a value whose numbers are as an annotation says, inside mappings and tuples too.

    Raises:
        ValueError: One is not; it is named.
    """
    for where, found, expected in _faults(name, value, hint):
        raise ValueError(f"{where} is {found!r}; expected {expected}")


def limits_of(hint: object) -> Limits | Bounds | None:
    """What one of the types of this module admits; None for any other annotation."""
    for part in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        read = getattr(part, "func", None)
        if isinstance(found := getattr(read, "__self__", None), Limits | Bounds):
            return found
    return None


def is_number(hint: object) -> bool:
    """Whether an annotation has a type of this module in it."""
    return limits_of(hint) is not None or any(map(is_number, get_args(hint)))


def description(hint: object) -> str:
    """An annotation for the help of a command, in words where it is a number."""
    if (limits := limits_of(hint)) is not None:
        return str(limits).removeprefix("a ")
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(description, args))
    if args and origin is not Literal:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(map(description, args))}]"
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _faults(name: str, value: object, hint: object) -> Iterator[tuple[str, object, str]]:
    """Where in a value a number is wrong, the number, and what was expected."""
    origin, args = get_origin(hint), get_args(hint)
    if (limits := limits_of(hint)) is not None:
        if not limits.admits(value):
            yield name, value, str(limits)
    elif origin in (Union, types.UnionType):
        arms = [list(_faults(name, value, arm)) for arm in args]
        if all(arms):
            inside = next((arm for arm in arms if arm[0][0] != name), None)
            yield from inside or [(name, value, " or ".join(arm[0][2] for arm in arms))]
    elif origin is Literal:
        if value not in args:
            yield name, value, " or ".join(map(repr, args))
    elif isinstance(hint, type):
        if not isinstance(value, hint):
            yield name, value, description(hint)
    elif isinstance(value, Mapping) and len(args) == 2:
        for key, item in value.items():
            yield from _faults(f"{name}.{key}", item, args[1])
    elif isinstance(value, tuple | list) and args:
        parts = args if origin is tuple and args[-1] is not ... else [args[0]] * len(value)
        for place, (item, part) in enumerate(zip(value, parts, strict=False)):
            yield from _faults(f"{name}[{place}]", item, part)
