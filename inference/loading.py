"""Load models that others made: the one door to diffusers', transformers' and open_clip's loaders.

What a folder says is data. Its JSON files and the headers of its weights are read and checked
before a library sees them; no code of it runs, nothing that it names is fetched, and whatever a
library makes of a bad folder, an exception of any class, is one `ValueError` that names it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from transformers.utils import logging as transformers_logging

from inference.outside import read_object
from inference.tensors import read_header

VOCABULARY_ROOM: Final = 0.01
"""Part of a vocabulary by which tokenizers other than CLIP's may differ: rows that pad the
embedding, or tokens that no text has. T5's and BERT's captioners stay far below it."""
_SETTINGS: Final = frozenset(
    {
        "added_tokens.json",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "open_clip_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "scheduler_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
)
"""Files that the libraries read as JSON objects, beside the indices of weights in several files."""


@contextmanager
def loading(what: str, kind: Any = None) -> Iterator[None]:
    """Make one `ValueError` of whatever a library raises; ours is for calls of it alone.

    Args:
        what: Folder or part, for the sentence.
        kind: The class that it is loaded as, where there is one.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:  # panics of the libraries in Rust are no Exceptions
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        named = "" if kind is None else f" as {kind.__name__}"
        raise ValueError(f"{what} cannot be loaded{named}: {reason}") from error


def check_folder(folder: Path) -> None:
    """Read the JSON files and the weights' headers of a folder, before a library does.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: A file is broken, or names what would have to be fetched.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds adapters to another model (adapter_config.json); expected a model"
        )
    for path in sorted(folder.iterdir()):
        if path.name in _SETTINGS or path.name.endswith(".index.json"):
            check_config(read_object(path), str(path))
        elif path.suffix == ".safetensors":
            read_header(path)


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Refuse a configuration by which a library would fetch code or weights from a hub.

    Raises:
        ValueError: It names a kernel, a backbone or an adapter of a hub.
    """
    waiting: list[Any] = [config]
    while waiting:
        found = waiting.pop()
        if isinstance(found, list):
            waiting += found
        elif isinstance(found, Mapping):
            waiting += found.values()
            for key, value in found.items():
                named = str(key).endswith("_implementation") or key == "backbone"
                if named and isinstance(value, str) and {"/", ":"} & {*value}:
                    raise ValueError(
                        f"{name}: {key} is {value!r}, which would be fetched from a hub"
                    )
                if key == "use_pretrained_backbone" and value:
                    raise ValueError(f"{name}: {key} is {value!r}, which would fetch weights")


def load_model(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a model of diffusers or transformers, on the CPU.

    Args:
        kind: Its class, or an Auto class.
        folder: `config.json` and safetensors.
        dtype: Of its weights.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It does not hold all of such a model.
    """
    check_folder(folder)
    is_diffusers = issubclass(kind, diffusers.ModelMixin)
    options = {"torch_dtype": dtype} if is_diffusers else {"dtype": dtype}
    with loading(str(folder), kind), _without_bars():
        model, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    if lost := sorted([*found["missing_keys"], *map(str, found["mismatched_keys"])]):
        others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        raise ValueError(f"{folder} lacks the tensor {lost[0]}{others} of a {type(model).__name__}")
    return model


def model_config(diffusers_kind: Any, folder: Path) -> Any:
    """The configuration of a model of diffusers, with its defaults for what the file leaves out.

    Args:
        diffusers_kind: Its class.
        folder: With `config.json`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It describes no such model.
    """
    config = read_object(folder / "config.json")
    with loading(str(folder), diffusers_kind), torch.device("meta"):
        return diffusers_kind.from_config(config).config


def load_tokenizer(kind: Any, folder: Path) -> Any:
    """Load a tokenizer, or a processor, of transformers.

    Args:
        kind: Its class, or an Auto class.
        folder: With its files.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds none.
    """
    check_folder(folder)
    with loading(str(folder), kind):
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_scheduler(folder: Path) -> Any:
    """Load a diffusers scheduler of any kind.

    Raises:
        FileNotFoundError: There is no such folder, or no `scheduler_config.json` in it.
        ValueError: It names no scheduler, or options that are none.
    """
    check_folder(folder)
    diffusers_kind = scheduler_kind(read_object(folder / "scheduler_config.json"), str(folder))
    with loading(str(folder), diffusers_kind):
        return diffusers_kind.from_pretrained(folder, local_files_only=True)


def scheduler_kind(config: Mapping[str, Any], name: str) -> Any:
    """The diffusers scheduler that a configuration names; `ValueError` where it names none."""
    found = config.get("_class_name")
    kind = getattr(diffusers, str(found), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(f"{name}: _class_name is {found!r}; expected a diffusers scheduler")  # noqa: TRY004
    return kind


def require_vocabulary(tokenizer: int, text_model: int, name: str, *, room: float = 0.0) -> None:
    """Require that a tokenizer and the model that reads its tokens belong together.

    A tokenizer without its files has two tokens: every prompt would be the same, unsaid.

    Args:
        tokenizer: Tokens that it knows.
        text_model: Rows of the model's embedding.
        name: Whose they are, for the error.
        room: Part of `text_model` by which they may differ.

    Raises:
        ValueError: They do not.
    """
    if abs(tokenizer - text_model) > room * text_model:
        raise ValueError(
            f"{name}: the tokenizer knows {tokenizer:,} tokens and the text encoder "
            f"{text_model:,}; expected the model's own tokenizer, with all its files"
        )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Transformers' progress bars would flash by at every start."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
