"""What can go wrong with a request, and what it means for the question and for the run."""

from collections.abc import Mapping
from typing import Final

from inference.endpoints.pacing import LONGEST_WAIT_S, retry_after
from inference.endpoints.replies import NOTHING, Reply
from inference.errors import ExpectedError

NO_FUNDS: Final = "insufficient_quota"
_SUSPECT_STATUSES = frozenset({401, 403, 404})
_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_LOST_BY_GATEWAY = frozenset({502, 504})
_NO_FUNDS_STATUS = 402
_MOST_SHOWN = 300  # characters


class ServerError(ExpectedError):
    """The language-model server is down, refuses, or serves another model."""


class Failed(Exception):
    """A question that got no answer in this run; the message says why."""


class BadRequest(Failed):
    """The endpoint does not take a request of this kind; the message holds its words."""

    @property
    def reply(self) -> Reply:
        """The same as an answer that cannot be used, for the journal; it cost nothing."""
        status = str(self).partition(",")[0]
        return Reply(text=str(self), usage=NOTHING, flaw=f"refused by the endpoint, {status}")


class Stopped(Failed):
    """The run is ending; the question was not, or not again, sent."""


class Trouble(Exception):
    """One sending came to nothing.

    Args:
        said: Why.
        billed: Whether it may have to be paid for all the same.
        passing: Whether it may go well the next time.
        wait_s: How long the server asks to be left alone.
        kind: What the question fails with if this was the last try.
        suspect: Whether it ends the run unless other questions are being answered.
        words: All that the endpoint says of it.
        param: The field of the request that it is about, where the endpoint says so.
    """

    def __init__(
        self,
        said: str,
        *,
        billed: bool,
        passing: bool = True,
        wait_s: float | None = None,
        kind: type[Exception] = Failed,
        suspect: bool = False,
        words: str = "",
        param: str | None = None,
    ) -> None:
        super().__init__(said)
        self.billed, self.passing, self.wait_s, self.kind = billed, passing, wait_s, kind
        self.suspect, self.words, self.param = suspect, words, param


def is_bad_request(status: object) -> bool:
    """Whether an HTTP status says that something is wrong with one request, and with it alone."""
    others = _SUSPECT_STATUSES | _PASSING_STATUSES | {_NO_FUNDS_STATUS}
    return isinstance(status, int) and 400 <= status < 500 and status not in others


def trouble_of(
    status: int,
    words: str,
    *,
    code: str | None,
    param: str | None = None,
    headers: Mapping[str, str],
    redirected: bool = False,
    label: str = "HTTP {}",
) -> Trouble:
    """What an HTTP status other than 200 means.

    Args:
        status: The status.
        words: The endpoint's own, without the key.
        code: The code of the error, such as ``insufficient_quota``.
        param: The field that it is about.
        headers: The response's.
        redirected: Whether another address than the endpoint's answered.
        label: How the status is written in messages.
    """
    said = f"{label.format(status)}, {words[:_MOST_SHOWN]}"
    if status == _NO_FUNDS_STATUS or code == NO_FUNDS:
        return Trouble(said, billed=False, passing=False, kind=ServerError)
    if redirected or status < 400 or status in _SUSPECT_STATUSES:
        return Trouble(said, billed=False, suspect=True)
    if status >= 500 or status in _PASSING_STATUSES:
        wait = retry_after(headers)
        patient = wait is None or wait <= LONGEST_WAIT_S
        return Trouble(said, billed=status in _LOST_BY_GATEWAY, passing=patient, wait_s=wait)
    return Trouble(said, billed=False, passing=False, kind=BadRequest, words=words, param=param)
