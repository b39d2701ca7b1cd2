"""Which fields of a request an endpoint takes, found out from what it refuses.

Servers that call themselves compatible refuse fields that they do not know. A field that a refusal
names is left out and the request sent again; if that is answered, the field stays out. Where the
first refusal names none, what we add of our own accord is left out. `max_completion_tokens` is
replaced by `max_tokens`, its former name, so that answers stay bounded.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

NEW_LIMIT, OLD_LIMIT = "max_completion_tokens", "max_tokens"
_OWN: Final = frozenset({"seed", NEW_LIMIT})
_ALWAYS: Final = frozenset({"model", "messages"})


class RequestFields:
    """Fields that an endpoint does not take.

    Args:
        without: Those that have been found out before.
    """

    def __init__(self, without: Iterable[str] = ()) -> None:
        self.without = frozenset(without)
        self._tried: set[tuple[frozenset[str], frozenset[str]]] = set()

    def adapted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request without those fields."""
        sent = {name: value for name, value in body.items() if name not in self.without}
        if NEW_LIMIT in self.without and NEW_LIMIT in body:
            sent.setdefault(OLD_LIMIT, body[NEW_LIMIT])
        return sent

    def drop(
        self,
        sent: Mapping[str, Any],
        words: str,
        param: str | None,
        *,
        required: frozenset[str],
        guess: bool,
    ) -> frozenset[str]:
        """Leave out fields for which a request may have been refused, each set tried once.

        Args:
            sent: The request.
            words: The endpoint's own, of its refusal.
            param: The field that the refusal is about, where it says so.
            required: Fields that cannot be left out.
            guess: Whether to leave out our own where none is named.

        Returns:
            The fields; empty where there are none to leave out.
        """
        optional = sent.keys() - _ALWAYS - required
        if NEW_LIMIT not in sent:
            optional -= {OLD_LIMIT}
        named = _named(optional, words, param)
        dropped = frozenset(named or (_OWN & optional if guess and not param else ()))
        trial = (dropped, frozenset(sent))
        if not dropped or trial in self._tried:
            return frozenset()
        self._tried.add(trial)
        self.without |= dropped
        return dropped

    def take_back(self, dropped: frozenset[str]) -> None:
        """Send fields again: without them the request fared no better."""
        self.without -= dropped


def _named(optional: Iterable[str], words: str, param: str | None) -> list[str]:
    """The fields that a refusal names; of the two names of the limit the first."""
    if param:
        parameter = re.split(r"[.\[]", param)[0]
        return [parameter] if parameter in optional else []
    places = {name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words) for name in optional}
    found = sorted((place.start(), name) for name, place in places.items() if place)
    limits = [name for _, name in found if name in (NEW_LIMIT, OLD_LIMIT)]
    return [name for _, name in found if name not in limits[1:]]
