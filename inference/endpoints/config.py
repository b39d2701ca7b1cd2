"""How an endpoint is asked: where it is, what it charges, how patient one is with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit

from inference.endpoints.budget import Prices
from inference.endpoints.keys import AUTO_KEY_ENV, check_key_env
from inference.number_types import (
    Connections,
    NonNegative,
    Positive,
    PositiveCount,
    Seconds,
    SmallCount,
    checks_numbers,
)

ResponseFormat = Literal["plain", "json_schema", "json_object", "tagged"]
"""How an answer is written down: as plain JSON, held to a schema, held to JSON, between tags."""

OPENAI_URL: Final = "https://api.openai.com/v1"

OURS = frozenset(
    {"model", "messages", "response_format", "stream", "n", "seed", "max_completion_tokens"}
)
"""Fields of a request that are not the user's to choose as ``extra``."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An endpoint, and how it is asked.

    Attributes:
        model: A local transformers folder, or the model's name on the server at ``base_url``.
        base_url: Root of an OpenAI-compatible API; None serves ``model`` on loopback.
        key_env: The environment variable that holds the key for ``base_url``; ``auto`` sends
            ``OPENAI_API_KEY`` to OpenAI's own host and no key elsewhere; None sends no key.
        max_tokens: Longest answer, in tokens.
        extra: Further fields of each request.
        concurrency: Requests in flight.
        requests_per_minute: The endpoint's limit; None for none.
        tokens_per_minute: The endpoint's limit, prompts and answers together; None for none.
        timeout_s: Longest wait for one answer, in seconds.
        max_retries: How often a request that failed is repeated.
        prices: What the endpoint charges.
        budget: Dollars that may be spent, never exceeded; None for no limit.
    """

    model: str
    base_url: str | None = None
    key_env: str | None = AUTO_KEY_ENV
    max_tokens: PositiveCount = 256
    extra: Mapping[str, Any] = field(default_factory=dict)
    concurrency: Connections = 1
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    timeout_s: Seconds = 120.0
    max_retries: SmallCount = 5
    prices: Prices = field(default_factory=Prices)
    budget: NonNegative | None = None

    @classmethod
    def of(cls, options: Any) -> Self:
        """Take the fields of this class out of options that have them all among others."""
        return cls(**{one.name: getattr(options, one.name) for one in fields(cls)})

    def __post_init__(self) -> None:
        check_key_env(self.key_env, "key_env")
        check_base_url(self.base_url, "base_url")
        if taken := sorted(set(self.extra) & OURS):
            raise ValueError(f"extra must not hold {taken}: they are not yours to choose there")
        if self.extra.get("max_tokens", 0) > self.max_tokens:
            raise ValueError(f"extra.max_tokens must be at most max_tokens, {self.max_tokens}")
        if self.budget is not None and not self.prices:
            raise ValueError("budget needs prices: give prices.input and prices.output")

    @property
    def dollars(self) -> Decimal | None:
        """The budget as it was written down; None for no limit."""
        return None if self.budget is None else Decimal(str(self.budget))


def check_base_url(base_url: str | None, name: str) -> None:
    """Require the root of an API, or None.

    Args:
        base_url: The URL.
        name: The option that holds it, for the error.

    Raises:
        ValueError: It is none, or holds what may be a secret; such a URL is not repeated.
    """
    if base_url is None:
        return
    secretive = any(mark in base_url for mark in "@?#")
    shown = f"a text of {len(base_url)} characters" if secretive else repr(base_url)
    expected = f"{name} must be the root of an API, such as {OPENAI_URL}"
    try:
        url = urlsplit(base_url)
        fault = _url_fault(base_url, url)
    except ValueError:  # of the address in brackets, or of the port
        fault = "which is no URL"
    if fault is not None:
        raise ValueError(f"{expected}, got {shown}, {fault}") from None


def _url_fault(base_url: str, url: SplitResult) -> str | None:
    """What is wrong with a URL; may raise ValueError where it is none at all."""
    if url.username is not None or url.password is not None:
        return "with a user or a password in it: put the key into the variable that key_env names"
    if url.query or url.fragment or base_url.endswith(("?", "#")):
        return "with a query or a fragment: put a key into the variable that key_env names"
    if not base_url.isprintable() or any(character.isspace() for character in base_url):
        return "with blanks or characters that do not show"
    if url.scheme not in ("http", "https"):
        return "which begins with neither http:// nor https://"
    if not url.hostname:
        return "without a host"
    try:
        url.hostname.encode("ascii" if ":" in url.hostname else "idna")
    except UnicodeError:
        return "whose host is no name"
    return "whose port is 0" if url.port == 0 else None
