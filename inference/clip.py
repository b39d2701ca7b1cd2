"""CLIP similarities of image pairs and their captions, for the filter and for the metrics.

Any open_clip model scores: a local folder in open_clip's own format, a Hub repository, or an
architecture with a pretrained tag. What makes a score good enough is not decided here: the
thresholds of a checkpoint lie in its folder, under a key of ``open_clip_config.json`` that stock
open_clip passes over, and are only read and written here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"

# Unit features are about 1e-7 off in fp32: a difference below this has a length but no direction.
NO_CHANGE = 1e-6


class CaptionTooLong(ValueError):
    """A caption has more tokens than the text tower reads."""


@dataclass(frozen=True, kw_only=True)
class ClipScorer:
    """An open_clip model with all that is needed to compare pictures with words.

    Attributes:
        model: Any open_clip model, in eval mode and without gradients.
        tokenizer: Its tokenizer: ``tokenizer(texts, context_length=n) -> (B, n)``.
        context_length: Tokens a caption may have, start and end included.
        size: Height and width of the image tower's input, in pixels.
        mean: Mean that the image tower expects to be subtracted, a channel, for [0, 1].
        std: Deviation that it expects to be divided by, a channel.
        thresholds: What the checkpoint's own folder says is good enough, by the names of
            ``scores``; empty where it says nothing.
    """

    model: nn.Module
    tokenizer: Callable[..., Tensor]
    context_length: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    thresholds: Mapping[str, float]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def image(self, images: Tensor) -> Tensor:
        """Encode images.

        As InstructPix2Pix did: bicubic to the model's size without antialiasing or crop, the
        aspect ignored (``metrics/clip_similarity.py``).

        Args:
            images: (B, 3, H, W) in [-1, 1], any size.

        Returns:
            Unit features, (B, D).
        """
        pixels = (images.to(self.device, torch.float32) + 1) / 2
        if pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, size=self.size, mode="bicubic", align_corners=False)
        mean = torch.tensor(self.mean, device=self.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(-1, 1, 1)
        features = self.model.encode_image((pixels - mean) / std)  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1)

    @torch.inference_mode()
    def text(self, captions: Sequence[str]) -> Tensor:
        """Encode captions; equal captions of one call get bit-equal features.

        Args:
            captions: B texts.

        Returns:
            Unit features, (B, D).

        Raises:
            CaptionTooLong: A caption has more tokens than ``context_length``; open_clip itself
                would cut it without a word.
        """
        unique = list(dict.fromkeys(captions))
        tokens = self._tokens(unique)
        features = self.model.encode_text(tokens.to(self.device))  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1)[[unique.index(text) for text in captions]]

    def scores(
        self,
        source: Tensor,
        edited: Tensor,
        captions: Sequence[str],
        edited_captions: Sequence[str],
    ) -> dict[str, Tensor]:
        """Score image pairs against their caption pairs.

        Args:
            source: Source images, (B, 3, H, W) in [-1, 1].
            edited: Edited images, likewise.
            captions: B captions of the source images.
            edited_captions: B captions of the edited images.

        Returns:
            What ``compare`` returns.

        Raises:
            CaptionTooLong: A caption has more tokens than ``context_length``.
        """
        texts = self.text([*captions, *edited_captions])
        return compare(
            self.image(source), self.image(edited), texts[: len(captions)], texts[len(captions) :]
        )

    def check_lengths(self, captions: Sequence[str]) -> None:
        """Make sure that captions can be read, without encoding them.

        Raises:
            CaptionTooLong: As ``text``.
        """
        self._tokens(list(captions))

    def _tokens(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, context_length=self.context_length)
        # Cut at the limit, a caption ends in the end token; cut one later, it does so one later.
        longer = self.tokenizer(captions, context_length=self.context_length + 1)
        cut = (longer[:, : self.context_length] != tokens).any(dim=1)
        for caption, was_cut in zip(captions, cut.tolist(), strict=True):
            if was_cut:
                raise CaptionTooLong(
                    f"the caption {caption!r} has more than the {self.context_length} tokens "
                    "that the CLIP text tower reads"
                )
        return tokens


def compare(
    source: Tensor, edited: Tensor, caption: Tensor, edited_caption: Tensor
) -> dict[str, Tensor]:
    """Compare the unit features of image pairs with those of their captions.

    Args:
        source: Features of the source images, (B, D); so are the others.
        edited: Of the edited images.
        caption: Of the captions of the source images.
        edited_caption: Of the captions of the edited images.

    Returns:
        ``image_image``, ``text_source``, ``text_edited`` and ``directional``, each (B,) in
        [-1, 1], on the CPU. Directional similarity is cos(I1 - I0, T1 - T0) on unit features
        (InstructPix2Pix, section 3.1.2, after StyleGAN-NADA), and 0 where nothing changed.
    """
    values = {
        "image_image": (source * edited).sum(-1),
        "text_source": (source * caption).sum(-1),
        "text_edited": (edited * edited_caption).sum(-1),
        "directional": F.cosine_similarity(
            edited - source, edited_caption - caption, dim=-1, eps=NO_CHANGE
        ),
    }
    return {name: value.cpu() for name, value in values.items()}


def load_clip(name: str | Path, *, device: str | torch.device = "cpu") -> ClipScorer:
    """Load a scorer.

    Args:
        name: A folder with ``open_clip_config.json``, ``open_clip_model.safetensors`` and, where
            the config names a tokenizer, its files; or ``hf-hub:owner/name``; or an
            architecture and a pretrained tag, such as ``ViT-L-14/openai``.
        device: Where to put the model.

    Returns:
        The scorer, in fp32.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: ``name`` is neither a folder nor something open_clip knows, or the folder's
            files do not make a model.
    """
    import open_clip  # whoever only knows the type of a scorer does without

    model_name, tag = _resolve(str(name))
    try:
        model = open_clip.create_model(
            model_name, pretrained=tag, device=device, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except (RuntimeError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"open_clip cannot load {str(name)!r}: {error}") from error
    preprocessing: dict[str, Any] = model.visual.preprocess_cfg
    size = preprocessing["size"]
    return ClipScorer(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        context_length=int(model.context_length),
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
        thresholds=read_thresholds(name),
    )


def require_clip(name: str | Path) -> None:
    """Require, without loading it, that there is a folder of that name or a model known by it.

    Raises:
        FileNotFoundError, ValueError: As ``load_clip``.
    """
    _resolve(str(name))


def read_thresholds(name: str | Path) -> dict[str, float]:
    """Read the thresholds that a checkpoint's folder carries.

    Args:
        name: As for ``load_clip``; what is no local folder carries none.

    Returns:
        Thresholds by the names of ``ClipScorer.scores``; empty where there are none.

    Raises:
        ValueError: They are no mapping from names to numbers.
    """
    if not Path(name).is_dir():
        return {}
    path = Path(name) / CONFIG
    found = json.loads(path.read_text()).get("emend", {}).get("thresholds", {})
    if not isinstance(found, dict) or not all(type(v) in (int, float) for v in found.values()):
        raise ValueError(f"{path}: emend.thresholds must map names to numbers, got {found!r}")
    return {name: float(value) for name, value in found.items()}


def save_thresholds(folder: str | Path, thresholds: Mapping[str, float]) -> None:
    """Put thresholds into a checkpoint's folder, beside what its config already says.

    Args:
        folder: A local open_clip folder.
        thresholds: By the names of ``ClipScorer.scores``.
    """
    path = Path(folder) / CONFIG
    config = json.loads(path.read_text())
    config.setdefault("emend", {})["thresholds"] = dict(thresholds)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _resolve(name: str) -> tuple[str, str | None]:
    """Turn a name into open_clip's ``model_name`` and ``pretrained``."""
    folder = Path(name)
    if folder.is_dir():
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"the CLIP folder {name} has no {file}")
        return f"local-dir:{name}", None
    if name.startswith("hf-hub:"):
        return name, None
    import open_clip

    architecture, _, tag = name.partition("/")
    if tag not in open_clip.list_pretrained_tags_by_model(architecture):
        raise ValueError(
            f"the CLIP model {name!r} is neither a folder, nor hf-hub:owner/name, "
            "nor architecture/tag as open_clip lists them"
        )
    return architecture, tag
