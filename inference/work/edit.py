"""`python -m inference edit`: any editor, on files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from inference.choices import Dtype
from inference.editors.config import EditorConfig, PlugAndPlayConfig
from inference.editors.editor import Editor, EditRequest
from inference.files import require_writable_folder
from inference.images import load_image, save_image
from inference.work.common import load_model, one_each, output_paths, require_fitting


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
    seed: int | None,
    device: str,
    dtype: Dtype,
    force: bool,
) -> None:
    """Edit images with an editor of these options, which goes by this name; see `commands.edit`."""
    if isinstance(config, PlugAndPlayConfig) and config.store is not None:
        require_writable_folder(config.store)
    more = {} if mask is None else {"mask": _read_mask(mask)}
    outputs = output_paths([Path(image) for image in images or ["drawn"]], Path(output))
    requests = _requests(images or [None], instruction, source, target, seed or 0)
    model = model or f"shapes/{'instruct-pix2pix' if editor == 'instruct' else 'stable-diffusion'}"
    backbone = load_model(model, device, dtype)
    pictures = {
        path: request.image
        for path, request in zip(images, requests, strict=bool(images))
        if request.image is not None
    }
    require_fitting(backbone, model, pictures, force=force)
    method: Editor = config.build(backbone=backbone, progress=True, **more)
    given = {"instruction": instruction, "source": source, "target": target, "seed": seed}
    _check_read(method, editor, {n: value for n, value in given.items() if value not in (None, [])})
    results = method.edit(requests)
    for path, image in zip(outputs, results, strict=True):
        save_image(path, image)
        print(path)


def _requests(
    images: Sequence[str | None],
    instruction: Sequence[str],
    source: Sequence[str],
    target: Sequence[str],
    seed: int,
) -> list[EditRequest]:
    """One for each image; for None, that of the source prompt is drawn and edited."""
    count = len(images)
    instructions = one_each("instruction", instruction, count) if instruction else [None] * count
    sources = one_each("source", source, count) if source else [None] * count
    targets = one_each("target", target, count) if target else [None] * count
    return [
        EditRequest(
            image=None if image is None else load_image(image),
            instruction=wanted,
            source=before,
            target=after,
            seed=seed,
        )
        for image, wanted, before, after in zip(images, instructions, sources, targets, strict=True)
    ]


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
