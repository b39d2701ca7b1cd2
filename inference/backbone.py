"""A latent diffusion model as one frozen dataclass, and how it is loaded.

A backbone is what every stage runs: VAE, text encoder with its tokenizer, UNet and scheduler of any
Stable-Diffusion-like diffusers folder. Nothing here knows of editing or of sampling.

What pins a checkpoint's behaviour beyond diffusers' own configuration stands in `emend.json` at the
root of its folder (see `Settings`), a file that stock diffusers does not look at. Folders without
one, InstructPix2Pix's own among them, get the defaults.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from inference.sampling import SAMPLERS, SamplerName

SETTINGS_FILE = "emend.json"


class PromptTooLong(ValueError):
    """A prompt has more tokens than the text encoder reads; cutting it would drop words unseen."""

    def __init__(self, prompt: str, *, found: int, limit: int) -> None:
        super().__init__(
            f"prompt {prompt!r} has {found} tokens with start and end; "
            f"the text encoder reads {limit}"
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a checkpoint pins beyond diffusers' own configuration.

    Attributes:
        image_latent_scale: Factor on the latents of the image condition. InstructPix2Pix was
            trained with 1 (not the VAE's scaling factor); CosXL-edit is one that scales.
        text_scale: Text guidance scale that suits the checkpoint.
        image_scale: Image guidance scale that suits the checkpoint.
        sampler: Sampler that suits the checkpoint.
        steps: Number of steps that suits the checkpoint.
    """

    image_latent_scale: float = 1.0
    text_scale: float = 7.5
    image_scale: float = 1.5
    sampler: SamplerName = "euler_ancestral"
    steps: int = 50


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The parts of a latent diffusion model.

    Images are `(B, 3, H, W)` in [-1, 1]; latents `(B, C, h, w)` with h = H / `latent_factor`.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Any
    unet: UNet2DConditionModel
    scheduler: Any
    settings: Settings = field(default_factory=Settings)

    @property
    def device(self) -> torch.device:
        """Where the UNet lies."""
        return torch.device(self.unet.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet's weights."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def latent_factor(self) -> int:
        """Image pixels a latent pixel, along one side."""
        return 1 << (len(self.vae.config.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """Sides of an image must be multiples of this: the VAE's factor times the UNet's."""
        return self.latent_factor << (len(self.unet.config.block_out_channels) - 1)

    @property
    def native_size(self) -> int:
        """Long side, in pixels, that the UNet was made for."""
        sample_size = self.unet.config.sample_size
        long_side = sample_size if isinstance(sample_size, int) else max(sample_size)
        return int(long_side) * self.latent_factor

    @property
    def text_length(self) -> int:
        """Tokens a prompt is padded to, start and end tokens included."""
        return int(
            min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        )

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts; the empty prompt is the null text of classifier-free guidance.

        Returns:
            `(B, L, D)`, L = `text_length`.

        Raises:
            PromptTooLong: A prompt does not fit in `text_length` tokens.
        """
        self.check_lengths(prompts)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.text_length, return_tensors="pt"
        ).to(self.device)
        uses_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if uses_mask else None
        embedded: Tensor = self.text_encoder(tokens.input_ids, attention_mask=mask)[0]
        return embedded

    def check_lengths(self, prompts: Sequence[str]) -> None:
        """Raise `PromptTooLong` where `encode_text` would, at hardly any cost."""
        limit = self.text_length
        for prompt in prompts:
            length = len(self.tokenizer(prompt, verbose=False).input_ids)
            if length > limit:
                raise PromptTooLong(prompt, found=length, limit=limit)

    def encode_image(self, images: Tensor) -> Tensor:
        """Latents as the UNet denoises them: the posterior's mean times the scaling factor.

        This is for training targets and inversion; the image *condition* is `encode_condition`.
        """
        posterior = self.vae.encode(self._checked(images)).latent_dist
        latents: Tensor = posterior.mean * self.vae.config.scaling_factor
        return latents

    def encode_condition(self, images: Tensor) -> Tensor:
        """Latents of an image condition: the posterior's mode times `image_latent_scale`.

        With the default scale 1 these are unscaled, as InstructPix2Pix's weights need them.
        """
        posterior = self.vae.encode(self._checked(images)).latent_dist
        latents: Tensor = posterior.mode() * self.settings.image_latent_scale
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)`, clamped to [-1, 1]."""
        images: Tensor = self.vae.decode(
            latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        ).sample
        return images.clamp(-1, 1)

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
        if images.shape[2] % self.latent_factor or images.shape[3] % self.latent_factor:
            raise ValueError(
                f"images are {images.shape[3]}x{images.shape[2]}; "
                f"expected sides that are multiples of {self.latent_factor}"
            )
        return images.to(self.device, self.vae.dtype)


def load_backbone(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load a Stable-Diffusion-like diffusers folder (safetensors only) for inference.

    Args:
        folder: A local diffusers folder.
        device: Where the models shall lie.
        dtype: Of their weights.

    Returns:
        The backbone: in eval mode, without gradients for its weights.

    Raises:
        FileNotFoundError: There is no such folder, or a part of it is missing.
        ValueError: A part is of another kind than this framework runs, or its files are broken.
    """
    root = Path(folder)
    _check_parts(root)
    backbone = Backbone(
        vae=_load_part(AutoencoderKL, root / "vae", torch_dtype=dtype),
        text_encoder=_load_text_encoder(root / "text_encoder", dtype),
        tokenizer=CLIPTokenizer.from_pretrained(root / "tokenizer", local_files_only=True),
        unet=_load_part(UNet2DConditionModel, root / "unet", torch_dtype=dtype),
        scheduler=_load_scheduler(root / "scheduler"),
        settings=load_settings(root),
    )
    for module in (backbone.vae, backbone.text_encoder, backbone.unet):
        module.to(device).eval().requires_grad_(False)
    return backbone


def load_settings(folder: str | Path) -> Settings:
    """Read `emend.json` of a diffusers folder; the defaults where there is none.

    Raises:
        ValueError: The file is not JSON or holds a key or a value that is not known.
    """
    path = Path(folder) / SETTINGS_FILE
    if not path.exists():
        return Settings()
    found = _read_json(path)
    known = [entry.name for entry in dataclasses.fields(Settings)]
    for key, value in found.items():
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}; expected some of {known}")
        if key == "sampler":
            if value not in SAMPLERS:
                raise ValueError(f"{path}: sampler is {value!r}; expected one of {list(SAMPLERS)}")
        elif type(value) is not int and (type(value) is not float or key == "steps"):
            expected = "a whole number" if key == "steps" else "a number"
            raise ValueError(f"{path}: {key} is {value!r}; expected {expected}")
    return Settings(**found)


def save_settings(folder: str | Path, settings: Settings) -> None:
    """Write `emend.json` into a diffusers folder."""
    text = json.dumps(dataclasses.asdict(settings), indent=2) + "\n"
    (Path(folder) / SETTINGS_FILE).write_text(text, encoding="utf-8")


_PARTS = {
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "unet": "config.json",
    "scheduler": "scheduler_config.json",
}


def _check_parts(root: Path) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no model folder {root}")
    for part, config in _PARTS.items():
        if not (root / part / config).is_file():
            raise FileNotFoundError(
                f"{root} is not a Stable-Diffusion-like folder: {part}/{config} is missing"
            )
    if (root / "text_encoder_2").exists():
        raise ValueError(f"{root} has two text encoders; expected a model with one")


def _load_part(kind: Any, folder: Path, **dtype: torch.dtype) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **dtype)
    except Exception as error:  # the libraries raise their own classes, down to bare Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{folder} cannot be loaded as {kind.__name__}: {reason}") from error


def _load_text_encoder(folder: Path, dtype: torch.dtype) -> CLIPTextModel:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # it would flash by at every start
    try:
        return _load_part(CLIPTextModel, folder, dtype=dtype)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _load_scheduler(folder: Path) -> Any:
    name = _read_json(folder / "scheduler_config.json").get("_class_name")
    kind = getattr(diffusers, str(name), None)
    is_scheduler = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if kind is None or not is_scheduler:
        raise ValueError(f"{folder}: _class_name is {name!r}; expected a diffusers scheduler")
    return kind.from_pretrained(folder, local_files_only=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ValueError(f"{path} holds a {found}; expected an object")  # noqa: TRY004
    return content
