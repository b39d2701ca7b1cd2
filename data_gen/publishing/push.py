"""Publish a data set: few large webdataset shards, index and card, in a folder or on the hub.

What is published is a data set again: stock ``webdataset`` and ``datasets`` read it, and so does
training, through the index. The pairs keep their bytes; only the tars are put together anew, since
a hub bears thousands of files, not millions. ``card`` writes the card.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from data_gen.publishing.card import write_card
from data_gen.recipe import RECIPES
from data_gen.shards import (
    INDEX_FILE,
    INDEX_SCHEMA,
    IndexRow,
    read_members,
    read_table,
    scan_shard,
    shard_writer,
    write_index,
)
from data_gen.survey.verify import inspect
from inference.files import file_digest, replaced_folder
from inference.number_types import PositiveCount, checks_numbers
from inference.progress import ProgressBar
from inference.recipe_names import recipe_path

HUB: Final = "hf://datasets/"
_REPOSITORY: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_LICENSE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SECRET: Final = re.compile(r"\b(hf_|sk-|ghp_)[A-Za-z0-9_-]{16,}|://[^/\s:@]+:[^/\s@]+@")
_MEMBER_OVERHEAD: Final = 3 * 1024
"""Bytes of headers and padding that a pair takes in a tar, about."""


class Hub(OSError):
    """The hub refused, or could not be reached."""


@checks_numbers
def push(
    data: Path,
    to: str,
    license: str,  # noqa: A002 (the card's own word)
    name: str | None = None,
    recipe: Path | None = None,
    shard_mib: PositiveCount = 512,
    private: bool = True,
) -> None:
    """Publish a data set as webdataset shards with a card, in a local folder or on the hub.

    The arguments are those of the command, `commands.push`.

    Raises:
        ValueError: The data set has faults, the license is no name of one, or the recipe holds
            what looks like a key.
        FileExistsError: The folder is not empty.
        Hub: The hub refused.
    """
    if not _LICENSE.fullmatch(license):
        raise ValueError(f"license is {license!r}; expected the hub's name of one, as cc-by-4.0")
    text = _recipe(recipe)
    with _target(to, beside=data) as folder:
        _require_sound(data)
        _repack(data, folder, shard_mib * 2**20)
        title = name or to.rstrip("/").rsplit("/", 1)[-1]
        write_card(folder, name=title, terms=license, recipe=text)
        if to.startswith(HUB):
            _upload(folder, to.removeprefix(HUB), private)
    where = "published on the hub" if to.startswith(HUB) else "written to this folder"
    print(f"{to}: {where}")


def _recipe(path: Path | None) -> str | None:
    if path is None:
        return None
    text = Path(recipe_path(str(path), RECIPES, "data")).read_text(encoding="utf-8")
    if _SECRET.search(text):
        raise ValueError(f"{path} holds what looks like a key or a password: take it out first")
    return text


def _require_sound(data: Path) -> None:
    faults = inspect(data, swaps=False).faults
    if faults:
        raise ValueError(
            f"{data} has {len(faults)} faults, such as {faults[0].where}: {faults[0].found}; "
            "run verify"
        )


@contextmanager
def _target(to: str, *, beside: Path) -> Iterator[Path]:
    """Give a folder to write in; a local target gets its name once everything is written.

    What goes to the hub is put together beside the data set, where there is room for such a thing.
    """
    if to.startswith(HUB):
        parent = beside.resolve().parent
        with tempfile.TemporaryDirectory(prefix=".push-", dir=parent) as folder:
            yield Path(folder)
        return
    if "://" in to:
        raise ValueError(f"to is {to!r}; expected a folder or {HUB}OWNER/NAME")
    target = Path(to)
    if _REPOSITORY.fullmatch(to) and not target.parent.exists():
        raise ValueError(
            f"to is {to!r}, a repository's name or a folder's: give {HUB}{to} to publish on the "
            f"hub, or ./{to} for a folder"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not empty: give a new folder")
    with replaced_folder(target) as partial:
        yield partial


def _repack(data: Path, folder: Path, most: int) -> None:
    """Copy all pairs into few shards and index them."""
    table = read_table(data / INDEX_FILE, INDEX_SCHEMA)
    slices = _slices([IndexRow(**row) for row in table.to_pylist()], most)
    (folder / "shards").mkdir()
    rows: list[IndexRow] = []
    digests: dict[str, str] = {}
    with ProgressBar(total=table.num_rows, desc="packing", unit="pair") as bar:
        for number, some in enumerate(slices):
            name = f"shards/train-{number:05d}-of-{len(slices):05d}.tar"
            with shard_writer(folder / name, {}) as writer:
                for row in some:
                    writer.copy(row.key, read_members(data, row))
                    bar.update()
            rows += scan_shard(folder / name, name)
            digests[name] = file_digest(folder / name)
    write_index(folder / INDEX_FILE, rows, digests)


def _slices(rows: Sequence[IndexRow], most: int) -> list[list[IndexRow]]:
    """Whole shards together, as many as a new one holds: a unit's prompts stay in one."""
    shards: dict[str, list[IndexRow]] = {}
    for row in rows:
        shards.setdefault(row.shard, []).append(row)
    slices: list[list[IndexRow]] = []
    size = 0
    for some in shards.values():
        more = sum(
            row.input_size + row.edited_size + row.json_size + _MEMBER_OVERHEAD for row in some
        )
        if not slices or size + more > most:
            slices.append([])
            size = 0
        slices[-1] += some
        size += more
    return slices


def _upload(folder: Path, repository: str, private: bool) -> None:
    """Make the repository if it is not there, and let one commit replace all its shards."""
    hub = huggingface_hub.HfApi()  # the token of the environment, or of its own login
    try:
        hub.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            delete_patterns=["shards/*"],
            commit_message="Publish shards, index and card",
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise Hub(f"the hub did not take {repository}: {error}") from error
