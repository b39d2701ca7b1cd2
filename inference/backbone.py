"""A latent diffusion model as one frozen dataclass, and how it is loaded.

A backbone is what every stage runs: VAE, text encoders with their tokenizers, UNet and scheduler of
any Stable-Diffusion-like diffusers folder (1.x, 2.x, XL). Nothing here knows of editing or of
sampling.

What diffusers' own configuration leaves open stands in `settings`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from inference.loading import load_model, load_scheduler, load_tokenizer, require_vocabulary
from inference.outside import read_object
from inference.settings import Settings, load_settings
from inference.text import Text

_SMALLEST_OF_PHOTOGRAPHS: Final = 256
"""Pixels a side: no latent diffusion model of photographs that is of use was made for fewer."""
_LARGEST_SCALING: Final = 4
"""So many times a small model's own size its drawings may come."""


class PromptTooLong(ValueError):
    """A prompt has more tokens than the text encoder reads; cutting it would drop words unseen."""

    def __init__(self, prompt: str, *, found: int, limit: int) -> None:
        super().__init__(
            f"prompt {prompt!r} has {found} tokens with start and end; "
            f"the text encoder reads {limit}"
        )


class NotFinite(ValueError):
    """A part of a model gave numbers that are not finite, as float16 makes of large ones."""

    def __init__(self, part: str, dtype: torch.dtype) -> None:
        name = str(dtype).removeprefix("torch.")
        wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(name)
        advice = f"try {wider}" if wider else "its weights or the picture may be broken"
        super().__init__(f"the {part} gave numbers that are not finite in {name}: {advice}")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The parts of a latent diffusion model.

    Images are `(B, 3, H, W)` in [-1, 1]; latents `(B, C, h, w)` with h = H / `latent_factor`.

    Attributes:
        vae, text_encoder, tokenizer, unet, scheduler: Those of the diffusers folder.
        text_encoder_2, tokenizer_2: SDXL's second ones; None for models with one.
        zero_null: Whether the null text is all zeros, as SDXL was trained, and not the embedding
            of the empty prompt.
        settings: What the checkpoint pins.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Any
    unet: UNet2DConditionModel
    scheduler: Any
    text_encoder_2: CLIPTextModelWithProjection | None = None
    tokenizer_2: Any = None
    zero_null: bool = False
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
        return native_size(self.unet.config, self.vae.config)

    def may_know(self, height: int, width: int) -> bool:
        """Whether the UNet may have learned pictures of that size, in pixels.

        Photographs of any size may be scaled to one that was made for photographs. One made for a
        few pixels has learned drawings, such as those of the shapes world: what is far larger is
        none of them.
        """
        if self.native_size >= _SMALLEST_OF_PHOTOGRAPHS:
            return True
        return max(height, width) <= _LARGEST_SCALING * self.native_size

    @property
    def text_length(self) -> int:
        """Tokens a prompt is padded to, start and end tokens included."""
        return int(
            min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        )

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that has weights, by the names of their folders."""
        names = ("vae", "text_encoder", "text_encoder_2", "unet")
        found = {name: getattr(self, name) for name in names}
        return {name: module for name, module in found.items() if module is not None}

    def check_text_to_image(self, user: str) -> None:
        """Raise `ValueError` where the UNet takes more than latents, as an instruction editor's."""
        expected, found = self.vae.config.latent_channels, self.unet.config.in_channels
        if found != expected:
            raise ValueError(
                f"backbone: its UNet takes {found} input channels, but {user} needs {expected} "
                "(latents alone), as in a text-to-image model"
            )

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Embed N prompts; the empty prompt is the null text of classifier-free guidance.

        Returns:
            N prompts of L = `text_length` tokens.

        Raises:
            PromptTooLong: A prompt does not fit in `text_length` tokens.
        """
        self.check_lengths(prompts)
        if self.text_encoder_2 is None:
            return Text(self._encoded(self.text_encoder, self.tokenizer, prompts)[0])
        # Two encoders, the last layer but one of each (Podell et al. 2023, section 2.1).
        first = self._encoded(self.text_encoder, self.tokenizer, prompts)
        second = self._encoded(self.text_encoder_2, self.tokenizer_2, prompts)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled = second.text_embeds
        if self.zero_null:
            kept = torch.tensor([bool(prompt) for prompt in prompts], device=states.device)
            states, pooled = states * kept[:, None, None], pooled * kept[:, None]
        return Text(states, pooled)

    def _encoded(self, encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> Any:
        tokens = tokenizer(
            list(prompts), padding="max_length", max_length=self.text_length, return_tensors="pt"
        ).to(self.device)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if uses_mask else None
        two = self.text_encoder_2 is not None  # only then are inner layers looked at
        return encoder(tokens.input_ids, attention_mask=mask, output_hidden_states=two)

    def unet_output(self, x: Tensor, timestep: float | Tensor, text: Text) -> Tensor:
        """What the UNet says of N states, in float32 at least.

        An SDXL is told that the picture has the size of the latents and was never cropped.

        Args:
            x: (N, C, h, w), with an editor's UNet the image condition among the channels.
            timestep: One for all, or (N,).
            text: N prompts.
        """
        text = text.to(torch.empty((), device=self.device, dtype=self.dtype))
        output: Tensor = self.unet(
            x.to(text.states),
            timestep,
            encoder_hidden_states=text.states,
            added_cond_kwargs=size_condition(text, x, self.latent_factor),
        ).sample
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def check_lengths(self, prompts: Sequence[str]) -> None:
        """Raise `PromptTooLong` where `encode_text` would, at hardly any cost."""
        limit = self.text_length
        for prompt in prompts:
            length = len(self.tokenizer(prompt, verbose=False).input_ids)
            if length > limit:
                raise PromptTooLong(prompt, found=length, limit=limit)

    def encode_image(
        self, images: Tensor, noise: Tensor | None = None, *, check: bool = True
    ) -> Tensor:
        """Latents as the UNet denoises them: the posterior's mean times the scaling factor.

        This is for training targets and inversion; the image *condition* is `encode_condition`.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            noise: Standard normal, of the latents' shape, by which they are drawn from the
                posterior; None takes its mean.
            check: Whether to look for numbers that are not finite, which waits for the device.

        Raises:
            NotFinite: There are some.
        """
        posterior = self.vae.encode(self._checked(images)).latent_dist
        latents: Tensor = posterior.mean
        if noise is not None:
            latents = latents + posterior.std * noise.to(latents)
        scale: float = self.vae.config.scaling_factor
        return self._finite(latents * scale, "VAE encoder") if check else latents * scale

    def encode_condition(self, images: Tensor, *, check: bool = True) -> Tensor:
        """Latents of an image condition: the posterior's mode times `image_latent_scale`.

        With the default scale 1 these are unscaled, as InstructPix2Pix's weights need them.

        Raises:
            NotFinite: As `encode_image`.
        """
        posterior = self.vae.encode(self._checked(images)).latent_dist
        latents: Tensor = posterior.mode() * self.settings.image_latent_scale
        return self._finite(latents, "VAE encoder") if check else latents

    def decode(self, latents: Tensor, *, check: bool = True) -> Tensor:
        """Images `(B, 3, H, W)`, clamped to [-1, 1].

        Args:
            latents: The end of a trajectory, (B, C, h, w).
            check: Whether latents and pixels that are not finite are an error; else such pixels are
                NaN, and it is the caller's to look for them.

        Raises:
            NotFinite: Some are not; it names the part that they come from.
        """
        if check and not latents.isfinite().all():
            is_text = not self.encode_text([""]).states.isfinite().all()
            raise NotFinite("text encoder" if is_text else "UNet", self.dtype)
        images: Tensor = self.vae.decode(
            latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        ).sample
        if check:
            self._finite(images, "VAE decoder")
        return torch.where(images.isfinite(), images.clamp(-1, 1), torch.nan)

    def _finite(self, values: Tensor, part: str) -> Tensor:
        if not values.isfinite().all():
            raise NotFinite(part, self.vae.dtype)
        return values

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
        if images.shape[2] % self.latent_factor or images.shape[3] % self.latent_factor:
            raise ValueError(
                f"images are {images.shape[3]}x{images.shape[2]}; "
                f"expected sides that are multiples of {self.latent_factor}"
            )
        return images.to(self.device, self.vae.dtype)


def size_condition(text: Text, x: Tensor, latent_factor: int) -> dict[str, Tensor] | None:
    """SDXL's `added_cond_kwargs` for uncropped pictures of (N, C, h, w) latents; None for others.

    The six numbers are original height and width, top and left of the crop, target height and
    width, in pixels (Podell et al. 2023, section 2.2).
    """
    if text.pooled is None:
        return None
    height, width = (latent_factor * side for side in x.shape[-2:])
    sizes = text.pooled.new_tensor([height, width, 0, 0, height, width])
    return {"text_embeds": text.pooled, "time_ids": sizes.expand(len(x), 6)}


def native_size(unet_config: Any, vae_config: Any) -> int:
    """Long side, in pixels, of the images that a UNet was made for.

    Raises:
        ValueError: Its `sample_size` is no side of an image, nor two.
    """
    found = unet_config.sample_size
    sides = found if isinstance(found, list | tuple) else [found]
    if not sides or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"sample_size of the UNet is {found!r}; expected a whole number from 1, or two"
        )
    return int(max(sides)) << (len(vae_config.block_out_channels) - 1)


def load_backbone(
    folder: str | Path,
    *,
    vae: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load a Stable-Diffusion-like diffusers folder (safetensors only) for inference.

    Args:
        folder: A local diffusers folder.
        vae: A local folder of an AutoencoderKL to use instead of the model's own.
        device: Where the models shall lie.
        dtype: Of their weights.

    Returns:
        The backbone: in eval mode, without gradients for its weights.

    Raises:
        FileNotFoundError: There is no such folder, or a part of it is missing.
        ValueError: A part is of another kind than this framework runs, or its files are broken.
    """
    root = Path(folder)
    require_parts(root, vae)
    second = root / "text_encoder_2"
    backbone = Backbone(
        vae=load_model(AutoencoderKL, Path(vae or root / "vae"), dtype),
        text_encoder=load_model(CLIPTextModel, root / "text_encoder", dtype),
        tokenizer=load_tokenizer(CLIPTokenizer, root / "tokenizer"),
        unet=load_model(UNet2DConditionModel, root / "unet", dtype),
        scheduler=load_scheduler(root / "scheduler"),
        settings=load_settings(root),
    )
    if second.is_dir():
        index = read_object(root / "model_index.json")
        backbone = replace(
            backbone,
            text_encoder_2=load_model(CLIPTextModelWithProjection, second, dtype),
            tokenizer_2=load_tokenizer(CLIPTokenizer, root / "tokenizer_2"),
            zero_null=bool(index.get("force_zeros_for_empty_prompt")),
        )
        if dtype == torch.float16 and backbone.vae.config.force_upcast:
            backbone.vae.float()  # SDXL's own overflows in float16: black pictures
    _check_vocabularies(root, backbone)
    _check_conditions(root, backbone)
    for module in backbone.modules.values():
        module.to(device).eval().requires_grad_(False)
    return backbone


_PARTS = {
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "unet": "config.json",
    "scheduler": "scheduler_config.json",
}


def require_parts(folder: str | Path, vae: str | Path | None = None) -> None:
    """Require, without loading it, that a folder holds all parts of a model.

    Args:
        folder: As for ``load_backbone``.
        vae: Likewise.

    Raises:
        FileNotFoundError: There is no such folder, or a part of it is missing.
    """
    root = Path(folder)
    if vae is not None and not Path(vae, "config.json").is_file():
        raise FileNotFoundError(f"there is no autoencoder in {vae}: config.json is missing")
    if not root.is_dir():
        hint = f": python -m inference convert --source {root} makes one" if root.is_file() else ""
        raise FileNotFoundError(f"there is no model folder {root}{hint}")
    parts = _PARTS
    if (root / "text_encoder_2").exists():
        parts = _PARTS | {
            "text_encoder_2": "config.json",
            "tokenizer_2": "tokenizer_config.json",
            "": "model_index.json",
        }
    for part, config in parts.items():
        if not (root / part / config).is_file():
            raise FileNotFoundError(
                f"{root} is not a Stable-Diffusion-like folder: {Path(part, config)} is missing"
            )


def _check_vocabularies(root: Path, backbone: Backbone) -> None:
    """Each text encoder must have a tokenizer of its own vocabulary."""
    pairs = {"tokenizer": (backbone.tokenizer, backbone.text_encoder)}
    if backbone.text_encoder_2 is not None:
        pairs["tokenizer_2"] = (backbone.tokenizer_2, backbone.text_encoder_2)
    for part, (tokenizer, encoder) in pairs.items():
        require_vocabulary(len(tokenizer), encoder.config.vocab_size, str(root / part))


def _check_conditions(root: Path, backbone: Backbone) -> None:
    """The UNet must want what `unet_output` gives it."""
    config = backbone.unet.config
    wanted, given = config.addition_embed_type, "text_time" if backbone.text_encoder_2 else None
    if wanted != given:
        raise ValueError(
            f"{root / 'unet'}: addition_embed_type is {wanted!r}; expected {given!r} for a model "
            f"with {1 + (given is not None)} text encoders"
        )
    if backbone.text_encoder_2 is not None:
        width = backbone.text_encoder_2.config.projection_dim + 6 * config.addition_time_embed_dim
        if config.projection_class_embeddings_input_dim != width:
            raise ValueError(
                f"{root / 'unet'}: projection_class_embeddings_input_dim is "
                f"{config.projection_class_embeddings_input_dim}; expected {width} "
                "(pooled text and six sizes), as in SDXL's base"
            )
