"""An editor in one call, for use as a library."""

from typing import Any

from inference.choices import Dtype
from inference.editors.config import EDITORS
from inference.editors.editor import Editor
from inference.work.common import load_model


def load_editor(
    model: str = "shapes/instruct-pix2pix",
    editor: str = "instruct",
    *,
    device: str = "auto",
    dtype: Dtype = "float32",
    **options: Any,
) -> Editor:
    """Load a model and the editor that works with it.

        editor = load_editor("timbrooks/instruct-pix2pix", dtype="fp16", text_scale=7.5)
        [edited] = editor.edit([EditRequest(image=picture, instruction="make it night")])
        to_pil(edited).save("night.png")

    Args:
        model: A diffusers folder, the name of a model that ships, or OWNER/NAME of the hub.
        editor: Its name on the command line.
        device: Where to run; `auto` is the first CUDA GPU if there is one.
        dtype: Of the model's weights.
        options: Those of the editor.

    Raises:
        ValueError: There is no such editor or device, or an option is out of its range.
        FileNotFoundError: There is no such model.
    """
    if editor not in EDITORS:
        raise ValueError(f"editor is {editor!r}; expected one of {', '.join(EDITORS)}")
    config = EDITORS[editor](**options)
    found: Editor = config.build(backbone=load_model(model, device, dtype))
    return found
