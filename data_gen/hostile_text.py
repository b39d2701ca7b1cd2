"""What no text from outside may hold, a caption as little as a language model's answer.

These texts go into prompts of a language model, into a data set and onto HTML pages.
"""

import re
import unicodedata

_LINK = re.compile(r"\w://|www\.|\w@\w+\.\w|\w\.(?:com|net|org|info|edu|gov)\b", re.IGNORECASE)
_MARKUP = re.compile(
    r"<[^<>]*>|\]\(|&(?:#\w{1,8}|[a-z]{2,8});|```|\*\*|\{\{|\{%|<\||\[/?[A-Z]{3,}\]"
)
_CONTROL = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
"""Do not show and are still part of how Persian, Hindi and emoji are written."""


def hostile_part(text: str) -> str | None:
    """Name what a text should not hold, or return None; takes linear time.

    Returns:
        ``control characters`` (also changes of the direction of writing, invisible characters,
        surrogates, and line breaks), ``a link`` (also the address of a site or of a mailbox) or
        ``markup`` (of HTML, Markdown, templates and chats).
    """
    if not text.isprintable() and any(map(_controls, text)):
        return "control characters"
    if _LINK.search(text):
        return "a link"
    return "markup" if _MARKUP.search(text) else None


def text_fault(text: str, *, most: int) -> str | None:
    """Say what is wrong with a text, such as ``has a link``; None where nothing is.

    Args:
        text: The text, without white space around it.
        most: Characters it may have.
    """
    if not text:
        return "is empty"
    if len(text) > most:
        return f"is longer than {most} characters"
    part = hostile_part(text)
    return None if part is None else f"has {part}"


def _controls(character: str) -> bool:
    """Whether a character does not show; what Unicode has yet to assign may be an emoji."""
    return unicodedata.category(character) in _CONTROL and character not in _JOINERS
