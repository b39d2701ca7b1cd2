"""The user's keys: they come from the environment, and stay out of all that is written or said."""

import os
import re
from typing import Any, Final
from urllib.parse import urlsplit

AUTO_KEY_ENV: Final = "auto"
"""The key of `DEFAULT_KEY_ENV` for OpenAI's own host, and no key for any other."""

DEFAULT_KEY_ENV: Final = "OPENAI_API_KEY"
OPENAI_HOST: Final = "api.openai.com"
NO_KEY: Final = "none"
"""What is sent where there is no key; servers of one's own ask for none."""

REDACTED: Final = "[key]"
_MOST_ESCAPES: Final = 16
"""Backslashes before one character: JSON within JSON within JSON within JSON has 15."""


def check_key_env(key_env: str | None, field: str) -> None:
    """Require the name of an environment variable, or None.

    Raises:
        ValueError: It is none. It may be the key itself, so the message does not repeat it.
    """
    if key_env is not None and not (key_env.isascii() and key_env.isidentifier()):
        raise ValueError(
            f"{field} must be the name of an environment variable, such as {DEFAULT_KEY_ENV}, and "
            f"not the key itself; got a text of {len(key_env)} characters that can be no name"
        )


def api_key(key_env: str | None, base_url: str) -> str:
    """Return the key for an endpoint, or `NO_KEY`.

    Args:
        key_env: The name of the variable that holds it; `AUTO_KEY_ENV`; None for no key.
        base_url: Root of the endpoint's API.

    Raises:
        ValueError: A variable that was named is not set, or what it holds can be no key.
    """
    name = key_env
    if key_env == AUTO_KEY_ENV:
        name = DEFAULT_KEY_ENV if urlsplit(base_url).hostname == OPENAI_HOST else None
    if name is None:
        return NO_KEY
    key = os.environ.get(name)
    if not key:
        why = "named by key_env" if key_env != AUTO_KEY_ENV else f"which {OPENAI_HOST} asks for"
        raise ValueError(f"the environment variable {name}, {why}, is not set")
    if fault := _fault(key):
        raise ValueError(
            f"the environment variable {name} must hold a key, visible ASCII characters alone; "
            f"it holds {fault}: set it again without"
        )
    return key


def _fault(key: str) -> str | None:
    """What a key holds that no HTTP header can carry."""
    if "\n" in key or "\r" in key:
        return "a line break"
    if any(character.isspace() for character in key):
        return "blanks"
    if not key.isascii():
        return "characters beyond ASCII"
    return None if key.isprintable() else "control characters"


class Redactor:
    """Takes a key out of whatever a server says, should it have repeated it.

    The key is known in each form that may be decoded later: escaped as in JSON, also in JSON that
    is text within JSON, percent-encoded as in a URL, or as HTML writes characters by number.

    Args:
        key: The key; `NO_KEY` is none.
    """

    def __init__(self, key: str) -> None:
        self._pattern = None if key == NO_KEY else re.compile("".join(map(_forms, key)))

    def text(self, text: str) -> str:
        """The text without the key."""
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def value(self, value: Any) -> Any:
        """A value of JSON without the key, in whichever text or name of a field."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(one) for name, one in value.items()}
        return value


def _forms(character: str) -> str:
    """A regular expression for the ways to write a character."""
    code = ord(character)
    plain = rf"\\{{0,{_MOST_ESCAPES}}}{re.escape(character)}"
    escaped = rf"\\{{1,{_MOST_ESCAPES}}}(?:u00|x)(?i:{code:02x})"
    percent = rf"%(?:25){{0,3}}(?i:{code:02x})"
    numbered = rf"&#(?:0{{0,5}}{code}|[xX]0{{0,5}}(?i:{code:x}));"
    return f"(?:{plain}|{escaped}|{percent}|{numbered})"
