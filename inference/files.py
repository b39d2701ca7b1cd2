"""Write files whole or not at all, and hash them."""

import errno
import glob
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

WEIGHT_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model"})
ABANDONED_S = 24 * 3600.0
_LONGEST_NAME = 255
"""Bytes that a file's name may have."""


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on leaving, fsync it and rename it to ``path``.

    Whoever looks sees the old file or the whole new one. The temporary path is the process's own,
    on this machine and on others that share the disk. A link stays: what it leads to is replaced.

    Raises:
        OSError: The file cannot be written; says which and why.
    """
    target = _file_behind(path)
    temporary = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        move_durably(temporary, target)
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, temporary, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside `folder` to write into, which takes its place on leaving.

    What was there before stays until then, and on an error. A link stays: the folder that it leads
    to is replaced.

    Raises:
        OSError: The folder cannot be written; says which and why.
    """
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder")
    partial, former = _beside(target), _beside(target, "former")
    _drop_abandoned(target, own=(partial, former))
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in filter(Path.is_file, partial.rglob("*")):
            permit_as_usual(path)
            _fsync(path)
        if target.exists():
            target.replace(former)
        partial.replace(target)
        _fsync(target.parent)
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, partial, error) from error
    finally:
        if former.exists() and not target.exists():
            former.replace(target)
        for left in (partial, former):
            shutil.rmtree(left, ignore_errors=True)


def require_writable(path: Path) -> None:
    """Require, before the work that makes a file, that it can be written.

    That the disk will have room is not known before; then the file is whole or not there.

    Raises:
        OSError: The path is no place for a file, or there is no right to write it.
    """
    target = _file_behind(path)
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(f"{path} cannot be written: it is read-only")
    require_writable_folder(path.parent)


def require_writable_folder(folder: Path) -> None:
    """Require, before the work that fills a folder, that it is there or can be made, and written.

    Nothing is made yet: a file without a name is opened in the nearest folder that is there.

    Raises:
        OSError: A part of the path is a file, or there is no right to write.
    """
    try:
        nearest = Path(os.path.realpath(folder))
        while not nearest.exists() and not nearest.is_symlink():
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{nearest} is not a folder; expected one to write in") from error
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error.strerror}") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Links stay: what they lead to is made.

    Raises:
        OSError: It cannot be made; says which and why.
    """
    target = Path(os.path.realpath(folder))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder} is a file, or lies below one; expected a folder"
        ) from error
    except OSError as error:
        raise OSError(f"{folder} cannot be made: {error.strerror}") from error


def _file_behind(path: Path) -> Path:
    """The file to write for a path: itself, or what it links to, which need not be there yet."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file")
    if path.exists() and not path.is_file():  # renaming would replace /dev/null
        raise OSError(f"{path} is a device or a pipe; expected a file")
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(f"{path} is a link that leads back to itself; expected a file")
    return target


def _beside(target: Path, *more: str) -> Path:
    """A temporary name in the same folder, hidden and of this process alone."""
    ending = ".".join(["", *more, own_suffix(), "tmp"])
    name = f".{target.name}{ending}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{ending}"
    return target.with_name(name)


def _drop_abandoned(target: Path, *, own: Sequence[Path]) -> None:
    """Delete what killed processes left of a folder, one of this process's number among them."""
    others = target.parent.glob(f".{glob.escape(target.name)}.*.tmp")
    mine = f".{own_suffix()}.tmp"
    for left in [*own, *(path for path in others if not path.name.endswith(mine))]:
        if is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


def _unwritten(path: Path, temporary: Path, error: OSError | SafetensorError) -> Exception:
    """The error of a write in one sentence that names the path; another's error as it is."""
    if isinstance(error, SafetensorError):
        return OSError(f"{path} cannot be written: {error}")
    inside = error.filename is None or str(error.filename).startswith(str(temporary.parent))
    if error.strerror is None or not inside:
        return error
    told = OSError(f"{path} cannot be written: {error.strerror}")
    told.errno = error.errno
    return told


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
    with written_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def move_durably(source: Path, target: Path) -> None:
    """Rename a file such that it survives a power cut: fsync before and after.

    Where a folder on the way is a link to another disk, the file is copied there first.
    """
    make_folder(target.parent)
    permit_as_usual(source)
    _fsync(source)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with written_atomically(target) as copy:
            shutil.copyfile(source, copy)
        source.unlink()
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
