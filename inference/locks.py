"""Locks of folders and files, held by processes and freed when they end, killed or not.

`locked` waits for the other process. `owned` does not: it is for what a process is at for hours,
and the error says who that is.
"""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from inference.files import make_folder

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems without locks answer."""

_held: set[int] = set()
"""Descriptors of the locks that this process owns."""


class Occupied(OSError):
    """Another process works in the folder."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; it is freed when the process ends, killed or not."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def owned(folder: Path, share: str = "") -> Iterator[None]:
    """Be the one process that works in a folder, or on a share of what is to be made in it.

    The folder is made if it is not there. Its lock file says whose it is; what counts is the lock,
    which ends with the process, not the file, which stays.

    Args:
        folder: What is owned.
        share: Name of the share; processes with different ones do not hinder each other.

    Raises:
        Occupied: Another process owns it; says which, and since when.
    """
    make_folder(folder)
    file = os.open(folder / f".owner{share}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(file)
    try:
        _take(file, folder)
        os.ftruncate(file, 0)
        os.pwrite(file, _signature(), 0)
        yield
        os.ftruncate(file, 0)
    finally:
        if file in _held:  # not in a forked child
            _held.discard(file)
            os.close(file)


def _take(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Occupied(
            f"{folder} is in use by {_owner(os.pread(file, 4096, 0))}: wait for it, end it, or "
            "choose another output folder"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        sys.stderr.write(
            f"warning: {folder} cannot be locked ({error.strerror}): see to it that no other "
            "process writes there\n"
        )


def _signature() -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps(
        {"host": socket.gethostname(), "process": os.getpid(), "since": since}
    ).encode()


def _owner(signature: bytes) -> str:
    try:
        signed = json.loads(signature)
        return f"process {signed['process']} on {signed['host']} since {signed['since']}"
    except (ValueError, TypeError, KeyError):  # it has only just come, or is about to leave
        return "another process"


def _let_go() -> None:
    """Give up the locks of the parent: a forked child that outlives it must not keep them."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)
