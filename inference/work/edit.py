"""`python -m inference edit`: any editor, on files."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from inference.choices import Dtype
from inference.editors.config import EditorConfig, PlugAndPlayConfig
from inference.editors.editor import Editor, EditRequest
from inference.files import require_writable_folder
from inference.images import load_image, save_image
from inference.work.common import load_model, output_paths, require_fitting
from inference.work.planned import PlannedEdit, plan, read_plan


def edit_files(
    editor: str,
    config: EditorConfig,
    *,
    images: Sequence[str],
    instruction: Sequence[str],
    source: Sequence[str],
    target: Sequence[str],
    model: str | None,
    mask: str | None,
    output: str,
    seeds: Sequence[int],
    edits: str | None,
    device: str,
    dtype: Dtype,
    force: bool,
) -> None:
    """Edit images with an editor of these options, which goes by this name; see `commands.edit`."""
    if isinstance(config, PlugAndPlayConfig) and config.store is not None:
        require_writable_folder(config.store)
    more = {} if mask is None else {"mask": _read_mask(mask)}
    texts: Mapping[str, Any] = {"instruction": instruction, "source": source, "target": target}
    if edits is None:
        planned = plan(images, **texts, seeds=seeds or [0])
    else:
        planned = read_plan(Path(edits), seeds or [0])
    outputs = output_paths(
        [edit.image or Path("drawn") for edit in planned],
        Path(output),
        names=[edit.name for edit in planned],
    )
    requests = _requests(planned)
    model = model or f"shapes/{'instruct-pix2pix' if editor == 'instruct' else 'stable-diffusion'}"
    backbone = load_model(model, device, dtype)
    pictures = {
        str(edit.image): request.image
        for edit, request in zip(planned, requests, strict=True)
        if request.image is not None
    }
    require_fitting(backbone, model, pictures, force=force)
    method: Editor = config.build(backbone=backbone, progress=True, **more)
    given = _given(planned) if edits else dict(texts)
    _check_read(method, editor, {n: value for n, value in given.items() if value} | _seeds(seeds))
    results = method.edit(requests)
    for path, image in zip(outputs, results, strict=True):
        save_image(path, image)
        print(path)


def _requests(planned: Sequence[PlannedEdit]) -> list[EditRequest]:
    """Requests with their pictures, each of which is read once."""
    read = functools.cache(load_image)
    return [
        EditRequest(
            image=None if edit.image is None else read(edit.image),
            instruction=edit.instruction,
            source=edit.source,
            target=edit.target,
            seed=edit.seed,
        )
        for edit in planned
    ]


def _given(planned: Sequence[PlannedEdit]) -> dict[str, object]:
    """The texts of a file of edits, by their fields."""
    return {
        name: [text for edit in planned if (text := getattr(edit, name)) is not None]
        for name in ("instruction", "source", "target")
    }


def _seeds(seeds: Sequence[int]) -> dict[str, object]:
    """What an editor is to look at if seeds are given."""
    return {"seed": seeds[0] if len(seeds) == 1 else seeds} if seeds else {}


def _check_read(method: Editor, name: str, given: Mapping[str, object]) -> None:
    """What the user says is to make a difference."""
    for option, value in given.items():
        if option not in method.reads:
            raise ValueError(
                f"{option} is {value!r}, which {name} with these options does not look at; "
                f"expected {' and '.join(sorted(method.reads))} alone"
            )


def _read_mask(path: str) -> Tensor:
    """(H, W) of 0 and 1: which pixels of a picture are bright."""
    return (load_image(path).mean(dim=0) > 0).float()
