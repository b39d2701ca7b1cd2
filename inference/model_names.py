"""Models by the names that a person gives them in an option or a recipe, and where they lie.

A name is a folder; `shapes/NAME`, a model that ships with Emend; or `OWNER/NAME`, also
`OWNER/NAME@REVISION`, a repository of the hub. A repository is fetched into huggingface_hub's
cache: configurations, tokenizers and safetensors, no code and no pickles. What a data set, a model
folder or a file's metadata names never comes here.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

ModelKind = Literal["pipeline", "autoencoder", "transformers", "clip", "safety"]
"""What is wanted of a repository: a diffusers folder, a part of one, an open_clip folder, …"""

SHIPPED: Final = Path(__file__).parent / "shapes" / "models"

_SHAPES: Final = "shapes/"
_HUB: Final = "hf-hub:"
_REPOSITORY: Final = re.compile(
    rf"(?:{_HUB})?(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>(?!.*\.\.)\w[\w./-]*))?", re.ASCII
)
_FILES: Final = (".ckpt", ".safetensors")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SNAPSHOT: Final = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<commit>\w+)")


_WEIGHTS: Final = ".safetensors"


def _weights(stem: str) -> tuple[str, ...]:
    """Weights in one file or in several; variants such as `.fp16` have other stems."""
    return f"{stem}{_WEIGHTS}", f"{stem}-*{_WEIGHTS}"


_TEXTS: Final = ("*.json", "*.txt", "*.model", "*.jinja")
_INCLUDED: Final[Mapping[ModelKind, tuple[str, ...]]] = MappingProxyType(
    {
        "pipeline": (
            "*.json",
            "*.txt",
            *_weights("unet/diffusion_pytorch_model"),
            f"vae/diffusion_pytorch_model{_WEIGHTS}",
            f"text_encoder*/model{_WEIGHTS}",
        ),
        "autoencoder": (*_TEXTS, *_weights("diffusion_pytorch_model")),
        "transformers": (*_TEXTS, *_weights("model")),
        "clip": (*_TEXTS, *_weights("open_clip_model")),
        "safety": ("*.json", f"safety_checker/model{_WEIGHTS}"),
    }
)
_IN_FOLDERS: Final = ("pipeline", "safety")
_BELOW: Final = "*/*"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What is wanted of a repository of the hub.

    Attributes:
        name: `OWNER/NAME`.
        revision: Branch, tag or commit; None for the main branch.
        kind: What it is to hold.
        weights: Whether its weights are wanted beside its configurations.
    """

    name: str
    revision: str | None
    kind: ModelKind
    weights: bool = True

    @property
    def included(self) -> tuple[str, ...]:
        """Patterns of the files that are wanted."""
        patterns = _INCLUDED[self.kind]
        return tuple(one for one in patterns if self.weights or not one.endswith(_WEIGHTS))

    @property
    def excluded(self) -> tuple[str, ...]:
        """Patterns of files that are not, whatever `included` says."""
        return () if self.kind in _IN_FOLDERS else (_BELOW,)

    @property
    def command(self) -> str:
        """The command that fetches them."""
        words = [f"hf download {self.name}"]
        words += [f"--revision {self.revision}"] if self.revision else []
        words += [f'--include "{pattern}"' for pattern in self.included]
        words += [f'--exclude "{pattern}"' for pattern in self.excluded]
        return " ".join(words)


def located(name: str | Path, kind: ModelKind = "pipeline", *, weights: bool = True) -> Path:
    """The folder of a model that a person named, fetched from the hub where it is not here yet.

    Args:
        name: A folder, `shapes/NAME`, or `OWNER/NAME` of the hub, with `@REVISION` if need be.
        kind: What it is to be.
        weights: Whether they are wanted too, or the configurations alone.

    Returns:
        The folder. What can be no name is returned as the path that it is, there or not.

    Raises:
        FileNotFoundError: There is no such folder, and the hub has no such repository, or it
            cannot be reached; says which command fetches the model.
        ValueError: The hub refuses, or the repository holds no safetensors.
    """
    if (repository := repository_of(name, kind)) is not None:
        return _fetched(replace(repository, weights=weights))
    path = Path(name)
    if not str(name).startswith(_SHAPES) or path.exists():
        return path
    shipped = {f"{_SHAPES}{one.name}": one for one in sorted(SHIPPED.iterdir())}
    if str(name) not in shipped:
        raise FileNotFoundError(
            f"there is no model {name}; those that ship are {', '.join(shipped)}"
        )
    return shipped[str(name)]


def located_clip(name: str | Path) -> str:
    """The folder of a CLIP that a person named, or an architecture and a tag as open_clip has it.

    Raises:
        FileNotFoundError, ValueError: As `located`.
    """
    text = str(name)
    if repository_of(text, "clip") is not None and _is_architecture(text.partition("/")[0]):
        return text
    return str(located(text, "clip"))


def _is_architecture(name: str) -> bool:
    import open_clip

    return bool(open_clip.list_pretrained_tags_by_model(name))


def pinned(name: str | Path, kind: ModelKind = "pipeline") -> str:
    """A model's name, with the commit where it is one of the hub: it stands for the same for ever.

    Raises:
        FileNotFoundError, ValueError: As `located`.
    """
    repository = repository_of(name, kind)
    return str(name) if repository is None else shown(_fetched(repository))


def shown(folder: str | Path) -> str:
    """The name of a model in what is written down, a receipt or a card.

    Where a folder lies on this machine is nobody's business: of a path the last part is shown. A
    model that ships, or one of the hub with its commit, is shown by the name that it has anywhere.
    """
    path = Path(folder)
    if path.is_relative_to(SHIPPED):
        return f"{_SHAPES}{path.relative_to(SHIPPED).as_posix()}"
    if (match := _SNAPSHOT.search(path.as_posix())) is not None:
        return f"{match['owner']}/{match['name']}@{match['commit']}"
    is_name = repository_of(folder, "pipeline") or (
        str(folder).startswith(_SHAPES) and not path.exists()
    )
    return str(folder) if is_name else path.name


def repository_of(name: str | Path, kind: ModelKind) -> Repository | None:
    """The repository that a name stands for; None where it is a path, or a model that ships.

    `models/x` is a path where there is a folder `models`, and `x/y.ckpt` always; `hf-hub:` before a
    name says that it is one of the hub.
    """
    text = str(name)
    match = _REPOSITORY.fullmatch(text)
    if match is None or text.endswith(_FILES):
        return None
    is_path = Path(text).exists() or Path(text.partition("/")[0]).is_dir()
    if not text.startswith(_HUB) and (is_path or text.startswith(_SHAPES)):
        return None
    return Repository(name=match["id"], revision=match["revision"], kind=kind)


def cached(repository: Repository) -> Path | None:
    """The folder of a repository all of which is in the hub's cache; None of another."""
    from huggingface_hub import errors

    try:
        folder = _snapshot(repository, local_files_only=True)
    except errors.LocalEntryNotFoundError:
        return None
    has_weights = any(Path(folder).rglob(f"*{_WEIGHTS}"))
    return Path(folder) if has_weights or not repository.weights else None


def bytes_to_fetch(repository: Repository) -> int:
    """What of a repository is still to be fetched, in bytes.

    Raises:
        FileNotFoundError, ValueError: As `located`.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    with _told(repository), disable_progress_bars():
        files = _snapshot(repository, dry_run=True)
    return sum(file.file_size or 0 for file in files if file.will_download)


def _snapshot(repository: Repository, **options: Any) -> Any:
    """huggingface_hub's `snapshot_download` of what is wanted of a repository."""
    import huggingface_hub  # whoever names no repository does without

    return huggingface_hub.snapshot_download(
        repository.name,
        revision=repository.revision,
        allow_patterns=list(repository.included),
        ignore_patterns=list(repository.excluded),
        **options,
    )


def _fetched(repository: Repository) -> Path:
    # A commit stays what it is: there is nothing to ask the hub.
    if _COMMIT.fullmatch(repository.revision or "") and (folder := cached(repository)):
        return folder
    with _told(repository):
        fetched = _snapshot(repository)
    if repository.weights and not any(Path(fetched).rglob(f"*{_WEIGHTS}")):
        raise ValueError(
            f"{repository.name} of the hub holds no safetensors of this kind; pickles are not "
            "fetched: `emend convert` makes a folder of a .ckpt file"
        )
    return Path(fetched)


@contextmanager
def _told(repository: Repository) -> Iterator[None]:
    """Whatever goes wrong while the hub is asked, in a sentence that says what to do."""
    try:
        yield
    except Exception as error:  # the library's, its HTTP client's, a full disk
        raise _sentence(repository, error) from error


def _sentence(repository: Repository, error: Exception) -> Exception:
    from huggingface_hub import errors

    cause = error.__cause__ if isinstance(error, errors.DryRunError) else error
    named = f"there is no folder {repository.name}, and the hub"
    if isinstance(cause, errors.GatedRepoError):
        return ValueError(
            f"{named} asks you to accept the terms of https://huggingface.co/{repository.name} and "
            "to log in: hf auth login"
        )
    if isinstance(cause, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        revision = f" with revision {repository.revision}" if repository.revision else ""
        return FileNotFoundError(
            f"{named} has no model of that name{revision}, or none for you: hf auth login"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.DryRunError):
        return FileNotFoundError(
            f"{named} cannot be reached, nor is the model whole in its cache; where it can be, "
            f"fetch it: {repository.command}"
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ValueError(f"{named}'s model cannot be fetched: {lines[0]}")
