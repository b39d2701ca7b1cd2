"""The recipe for MagicBrush runs on a tiny data set of its columns, as its header says."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image

from training.__main__ import main

RECIPE = Path("training/recipes/finetune-magicbrush.yaml")


@pytest.fixture
def magicbrush(tmp_path: Path) -> Path:
    """A parquet file with MagicBrush's columns: ten images, two turns each, of different sizes."""
    rng = np.random.default_rng(0)

    def picture(number: int) -> Image.Image:
        height, width = ((40, 56), (48, 48))[number // 2 % 2]
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))

    columns = {
        "img_id": [str(number // 2) for number in range(20)],
        "turn_index": [1 + number % 2 for number in range(20)],
        "source_img": [picture(number) for number in range(20)],
        "mask_img": [picture(number) for number in range(20)],
        "instruction": [f"paint it in shade {number}" for number in range(20)],
        "target_img": [picture(number) for number in range(20)],
    }
    table = datasets.Dataset.from_dict(columns)
    for name in ("source_img", "mask_img", "target_img"):
        table = table.cast_column(name, datasets.Image())
    table.to_parquet(tmp_path / "magicbrush.parquet")
    return tmp_path / "magicbrush.parquet"


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_the_recipe_runs_two_steps_on_magicbrush(
    magicbrush: Path, base_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.read_text().replace("osunlp/MagicBrush", str(magicbrush)))
    main(
        [
            "fit",
            f"--config={recipe}",
            f"--output={tmp_path / 'run'}",
            f"--model.base={base_of(RECIPE)}",
            "--model.settings.steps=2",
            "--data.batch_size=4",
            "--data.num_workers=0",
            "--data.framing.resolution=32",
            "--data.framing.enlarge_to=36",
            "--data.held_out=0.3",
            "--trainer.max_steps=2",
            "--trainer.accelerator=cpu",
            "--held_out_edits.every=2",
            "--held_out_edits.samples=2",
        ]
    )
    stock = StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path / "run" / "model")
    assert stock.unet.config.in_channels == 8
    assert stock.scheduler.config.prediction_type == "epsilon"
    assert (tmp_path / "run" / "held-out" / "step-000002.png").is_file()
