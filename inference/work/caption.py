"""`python -m inference caption`: what pictures show, as inversion needs it."""

import json
import sys
from contextlib import closing
from pathlib import Path

import torch

from inference.captioning import NoCaption, captioner_of
from inference.choices import Dtype, full_name
from inference.devices import device_of
from inference.files import require_writable, write_lines
from inference.images import load_image
from inference.progress import ProgressBar


def caption(
    images: list[str],
    captioner: str,
    base_url: str | None,
    key_env: str | None,
    output: str | None,
    device: str,
    dtype: Dtype,
) -> None:
    """Say what images show: a JSON object a line, `{"image": …, "caption": …}`.

    The arguments are those of the command, `commands.caption`.

    Raises:
        ValueError: No image has a caption, or there is no usable key.
        ServerError: The endpoint is down or refuses.
    """
    if output is not None:
        require_writable(Path(output))
    one = captioner_of(
        captioner, base_url, device_of(device), getattr(torch, full_name(dtype)), key_env=key_env
    )
    lines = []
    with closing(one):
        for path in ProgressBar(images, desc="captions", unit="image", disable=len(images) < 2):
            try:
                said = one.caption(load_image(Path(path)))
            except NoCaption as reason:
                sys.stderr.write(f"{path}: {reason}\n")
                continue
            lines.append(json.dumps({"image": path, "caption": said}, ensure_ascii=False))
    if not lines:
        raise ValueError(f"none of {len(images)} images has a caption")
    if output is None:
        print("\n".join(lines))
    else:
        write_lines(Path(output), lines)
