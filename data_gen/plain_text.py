"""What a text must be to go into a data set: plain, short, and nothing but words.

Texts come from language models and from other people's data sets, and go to tokenizers, web pages
and cards. Whatever could be more than text there is turned down here, with a reason to count.
"""

import re
import unicodedata

_LINK = re.compile(r"https?://|www\.", re.IGNORECASE)
_MARKUP = re.compile(r"<[^>]*>|\]\(")


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
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return "has control characters"
    if _LINK.search(text):
        return "has a link"
    if _MARKUP.search(text):
        return "has markup"
    return None
