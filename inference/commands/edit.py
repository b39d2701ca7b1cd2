"""`python -m inference edit`: any editor, on files."""

from collections.abc import Mapping
from typing import Any

from inference.choices import Dtype
from inference.editors.config import EDITORS
from inference.number_types import Seed, checks_numbers


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
    seeds: list[Seed] = [],  # noqa: B006
    edits: str | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
    force: bool = False,
) -> None:
    """Edit images by an instruction or by two prompts.

    `--editor NAME --help` shows the options of that editor.

    Args:
        knobs: Those of the editor.
        images: PNG, JPEG or WebP files, one or more, or folders of them; none edits what
            Prompt-to-Prompt draws. `edit photo.png "make it night"` needs no option names.
        editor: instruct (a trained editor, by an instruction), prompt_to_prompt, plug_and_play or
            sdedit (any text-to-image model, by prompts).
        instruction: What to do, for example "make the circle green": one text for all, or one each;
            several for one image are an edit each.
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
        seeds: Several of them: each edit is made with each, as <name>-seed<seed>.png.
        edits: A file of JSON lines in the place of images and texts, each with `image` (beside the
            file), `instruction` or `target`, perhaps `source` and `seed`.
        device: Where to run: auto, cpu, cuda, cuda:1 and so on, or mps; auto takes the first CUDA
            GPU if there is one.
        dtype: Of the model's weights; half precision is for GPUs.
        force: Go on where a picture is far larger than those that the model was made for.
    """
    config = EDITORS[editor](**knobs)
    if mask is not None and editor != "sdedit":
        raise ValueError(f"mask is {mask!r}, but {editor} has no mask; expected editor sdedit")
    if seed is not None and seeds:
        raise ValueError(f"seed is {seed} and seeds is {seeds}; expected one of the two")
    if edits is not None and (images or instruction or source or target):
        raise ValueError(f"edits is {edits!r}, which says all; expected no images and no texts")
    from inference.work.edit import edit_files

    edit_files(
        editor,
        config,
        images=images,
        instruction=instruction,
        source=source,
        target=target,
        model=model,
        mask=mask,
        output=output,
        seeds=seeds if seed is None else [seed],
        edits=edits,
        device=device,
        dtype=dtype,
        force=force,
    )
