"""The shipped models: small, safe, and loaded by stock libraries alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from inference.shapes import MODELS

MEGABYTE = 2**20

LOADERS = {
    "stable-diffusion": """
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
image = pipeline("a red circle on a blue background", num_inference_steps=2).images[0]
assert image.size == (64, 64), image.size
""",
    "instruct-pix2pix": """
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder, local_files_only=True)
image = pipeline("make it red", image=Image.new("RGB", (64, 64)), num_inference_steps=2).images[0]
assert image.size == (64, 64), image.size
""",
    "clip": """
import open_clip, torch
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red circle on a blue background"])
from PIL import Image
image = preprocess(Image.new("RGB", (80, 70)))[None]
assert model.encode_text(tokens).shape == model.encode_image(image).shape
""",
    "writer": """
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
question = '{"caption": "a red circle on a blue background", "edit_type": "recolour"}'
chat = [{"role": "user", "content": question}]
ids = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**ids, do_sample=False, max_new_tokens=100)[0, ids["input_ids"].shape[1]:]
assert "instruction" in __import__("json").loads(tokenizer.decode(answer, skip_special_tokens=True))
""",
}


@pytest.mark.parametrize("name", LOADERS)
def test_stock_libraries_load_and_run_it(name: str) -> None:
    # Of this project only the torchvision guard.
    script = f"import inference\nfolder = {str(MODELS / name)!r}\n{LOADERS[name]}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_models_are_small_and_hold_no_pickle() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    sizes = {path: path.stat().st_size for path in files}
    assert sum(sizes.values()) <= 40 * MEGABYTE
    assert max(sizes.values()) <= 15 * MEGABYTE
    allowed = {".safetensors", ".json", ".jinja", ".txt", ".md"}
    assert {path.suffix for path in files} <= allowed
    assert all(Path(path).stat().st_mode & 0o111 == 0 for path in files)
