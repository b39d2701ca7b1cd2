"""`python -m inference caption`: what pictures show, as inversion needs it."""

from inference.choices import Dtype
from inference.endpoints.keys import AUTO_KEY_ENV


def caption(
    images: list[str],
    captioner: str = "shapes",
    base_url: str | None = None,
    key_env: str | None = AUTO_KEY_ENV,
    output: str | None = None,
    device: str = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Say what images show: a JSON object a line, `{"image": …, "caption": …}`.

    An image without a caption is named with the reason, and the others go on.

    Args:
        images: PNG, JPEG or WebP files, one or more.
        captioner: `shapes` reads pictures of the shapes world; else the folder or the hub name of a
            transformers model such as BLIP-2, or with `base_url` the name of a vision model there.
        base_url: Root of an OpenAI-compatible API, `openai` for OpenAI's own.
        key_env: The environment variable that holds the key for `base_url`; `auto` sends
            `OPENAI_API_KEY` to OpenAI's own host and no key elsewhere; null sends no key.
        output: A file for the lines; by default they are printed.
        device: Where a transformers model runs: auto, cpu, cuda, cuda:1 and so on, or mps; auto
            takes the first CUDA GPU if there is one.
        dtype: Of its weights.
    """
    from inference.work.caption import caption as work

    work(images, captioner, base_url, key_env, output, device, dtype)
