"""`python -m inference edit`: any editor, on files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from torch import Tensor

from inference.commands.common import (
    Dtype,
    load_model,
    one_each,
    output_paths,
    require_fitting,
)
from inference.editors.editor import Editor, EditRequest
from inference.editors.instruct import Instruct
from inference.editors.plug_and_play import PlugAndPlay
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.editors.sdedit import SdEdit
from inference.files import require_writable_folder
from inference.images import load_image, save_image
from inference.number_types import Seed, checks_numbers

EDITORS: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {
        "instruct": Instruct,
        "prompt_to_prompt": PromptToPrompt,
        "plug_and_play": PlugAndPlay,
        "sdedit": SdEdit,
    }
)


@checks_numbers
def edit(
    knobs: Mapping[str, Any],
    images: list[str] = [],  # noqa: B006  (only read)
    editor: str = "instruct",
    instruction: list[str] = [],  # noqa: B006
    source: list[str] = [],  # noqa: B006
    target: list[str] = [],  # noqa: B006
    model: str | None = None,
    mask: str | None = None,
    output: str = "edited",
    seed: Seed | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
    force: bool = False,
) -> None:
    """Edit images by an instruction or by two prompts.

    `--editor NAME --help` shows the options of that editor.

    Args:
        knobs: Those of the editor.
        images: PNG, JPEG or WebP files, one or more; none edits what Prompt-to-Prompt draws.
        editor: instruct (a trained editor, by an instruction), prompt_to_prompt, plug_and_play or
            sdedit (any text-to-image model, by prompts).
        instruction: What to do, for example "make the circle green": one text for all, or one each.
        source: What the images show: one text for all, or one each.
        target: What the edited images are to show: one text for all, or one each.
        model: An InstructPix2Pix model for instruct, a text-to-image model for the others: a
            diffusers folder, one that ships (`emend recipes` lists them; those of the shapes world
            are the default), or OWNER/NAME of the hub, such as timbrooks/instruct-pix2pix.
        mask: For sdedit, a picture of the images' size that is bright where they may change.
        output: For one image, a file to write if it ends in .png, .jpg or .webp; else a folder
            that gets <name>.png for every image.
        seed: Of the noise, 0 by default; another one gives another edit. An inverted image brings
            its own noise.
        device: Where to run: auto, cpu, cuda, cuda:1 and so on, or mps; auto takes the first CUDA
            GPU if there is one.
        dtype: Of the model's weights.
        force: Go on where a picture is far larger than those that the model was made for.
    """
    kind = EDITORS[editor]
    if mask is not None:
        if kind is not SdEdit:
            raise ValueError(f"mask is {mask!r}, but {editor} has no mask; expected editor sdedit")
        knobs = {**knobs, "mask": _read_mask(mask)}
    if (store := knobs.get("store")) is not None:
        require_writable_folder(store)
    outputs = output_paths([Path(image) for image in images or ["drawn"]], Path(output))
    requests = _requests(images or [None], instruction, source, target, seed or 0)
    model = model or f"shapes/{'instruct-pix2pix' if kind is Instruct else 'stable-diffusion'}"
    backbone = load_model(model, device, dtype)
    pictures = {
        path: request.image
        for path, request in zip(images, requests, strict=bool(images))
        if request.image is not None
    }
    require_fitting(backbone, model, pictures, force=force)
    method: Editor = kind(backbone=backbone, progress=True, **knobs)
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
