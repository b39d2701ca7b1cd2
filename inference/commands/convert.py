"""`python -m inference convert`: one file to a diffusers folder, and back."""

from pathlib import Path

from inference.choices import PredictionType
from inference.number_types import PixelCount, checks_numbers


@checks_numbers
def convert(
    source: Path,
    output: Path,
    ema: bool = True,
    prediction_type: PredictionType | None = None,
    native_size: PixelCount | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Convert a Stable Diffusion: a single file to a diffusers folder, a folder to a single file.

    Single files are `.safetensors` or `.ckpt` with the original names, as InstructPix2Pix was
    published and as ComfyUI and the A1111 web UI read them; only `.safetensors` are written.
    Nothing is fetched: the architecture is told from the shapes. Every tensor is kept, but for the
    UNet's weights that `ema` does not choose: what a folder has no place for goes into
    `original-left-over.safetensors` in it and comes back.

    Args:
        source: A .ckpt or .safetensors file, or a diffusers folder, also by its name.
        output: A folder for a file, a .safetensors file for a folder.
        ema: Of a file that holds weights and their moving average, take the average.
        prediction_type: What the UNet predicts, where the file does not tell (Stable Diffusion 2).
        native_size: Side in pixels that the model was made for; by default its family's.
        tokenizer: Folder of the tokenizer, for a model that does not use CLIP's.
    """
    from inference.work.convert import convert as work

    work(source, output, ema, prediction_type, native_size, tokenizer)
