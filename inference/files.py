"""Write files whole or not at all, and hash them."""

import hashlib
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WEIGHT_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model"})
ABANDONED_S = 24 * 3600.0


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on leaving, fsync it and rename it to ``path``.

    Whoever looks sees the old file or the whole new one. The temporary path is the process's own,
    on this machine and on others that share the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{own_suffix()}.tmp")
    try:
        yield temporary
        move_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def own_suffix() -> str:
    """What tells this process's temporary names from those of others: machine and number."""
    return f"{socket.gethostname()}.{os.getpid()}"


def is_abandoned(path: Path) -> bool:
    """Whether the process that gave a temporary path its `own_suffix` is gone.

    Another machine's cannot be asked; it is taken for gone a day after it last wrote. Whoever asks
    has none of its own: one of its number is left by a former process.
    """
    stem, _, number = path.name.removesuffix(".tmp").rpartition(".")
    if stem.endswith(f".{socket.gethostname()}") and number.isdecimal():
        return int(number) == os.getpid() or not _runs(int(number))
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except FileNotFoundError:
        return True


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    with suppress(OSError):  # where there is no /proc
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # killed, and nobody has taken note
    return True


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file atomically, one newline after each line."""
    with written_atomically(path) as temporary, temporary.open("w") as file:
        file.writelines(f"{line}\n" for line in lines)


def move_durably(source: Path, target: Path) -> None:
    """Rename a file within its disk, such that it survives a power cut: fsync before and after."""
    target.parent.mkdir(parents=True, exist_ok=True)
    permit_as_usual(source)
    _fsync(source)
    source.replace(target)
    _fsync(target.parent)


def permit_as_usual(path: Path) -> None:
    """Give a file the permissions of a new one: safetensors leaves its files to their owner alone.

    What a job has written is for its group too, where the user's umask says so.
    """
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str | None:
    """Hash names and bytes of a model folder's weights and configurations; None if no folder."""
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHT_SUFFIXES)
    listing = "".join(f"{path.relative_to(folder)} {file_digest(path)}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()
