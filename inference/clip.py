"""CLIP similarities of image pairs and their captions, for the filter and for the metrics.

Any open_clip model scores: a local folder in open_clip's own format, a Hub repository, or an
architecture with a pretrained tag. What makes a score good enough is not decided here: the
thresholds of a checkpoint lie in its folder, under a key of ``open_clip_config.json`` that stock
open_clip passes over, and are only read and written here.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.files import write_lines
from inference.loading import (
    VOCABULARY_ROOM,
    check_config,
    check_folder,
    loading,
    require_vocabulary,
)
from inference.model_names import located, located_clip
from inference.outside import read_object

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
_TOKENIZER_OPTIONS = frozenset({"clean", "language", "strip_sep_token"})
"""What a configuration may tell a tokenizer; others reach loaders that read files or run code."""

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
        return self._features(pixels)

    @torch.inference_mode()
    def image_as_trained(self, images: Tensor) -> Tensor:
        """Encode images as CLIP itself does: for heads that were fitted on its features.

        The short side is brought to the model's size, bicubic with antialiasing, and the middle
        cut out (``_transform`` in OpenAI's ``clip.py``).

        Args:
            images: (B, 3, H, W) in [-1, 1], any size.

        Returns:
            Unit features, (B, D).
        """
        pixels = (images.to(self.device, torch.float32) + 1) / 2
        height, width = pixels.shape[-2:]
        if (height, width) != self.size:
            rows, columns = self.size
            is_wide = rows * width >= columns * height
            size = (
                (rows, rows * width // height) if is_wide else (columns * height // width, columns)
            )
            pixels = F.interpolate(
                pixels, size=size, mode="bicubic", align_corners=False, antialias=True
            ).clamp(0, 1)
            top, left = (
                round((found - kept) / 2) for found, kept in zip(size, self.size, strict=True)
            )
            pixels = pixels[..., top : top + self.size[0], left : left + self.size[1]]
        return self._features(pixels)

    def _features(self, pixels: Tensor) -> Tensor:
        """Unit features of (B, 3, H, W) pixels in [0, 1], of the model's size."""
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
            the config names a tokenizer, its files; or a name of such a folder, see
            ``model_names``; or an architecture and a pretrained tag, such as ``ViT-L-14/openai``.
        device: Where to put the model.

    Returns:
        The scorer, in fp32.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: ``name`` is neither a folder nor something open_clip knows, or the folder's
            files do not make a model.
    """
    name = located_clip(name)
    model_name, tag = _resolve(name)
    folder = Path(name) if Path(name).is_dir() else None
    if folder is not None:
        check_folder(folder)
        text_config = _checked_text_config(folder / CONFIG)
    import open_clip  # whoever only knows the type of a scorer does without

    with loading(f"the CLIP {str(name)!r}"):
        model = open_clip.create_model(
            model_name, pretrained=tag, device=device, require_pretrained=True, weights_only=True
        )
        tokenizer = (
            open_clip.get_tokenizer(model_name)
            if folder is None
            else _folder_tokenizer(folder, text_config)
        )
    if folder is not None:
        known = getattr(tokenizer, "tokenizer", tokenizer)
        size = known.vocab_size if known is tokenizer else len(known)
        require_vocabulary(size, int(model.vocab_size), str(name), room=VOCABULARY_ROOM)
    return ClipScorer(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        context_length=int(model.context_length),
        **_preprocessing(model.visual.preprocess_cfg, str(name)),
        thresholds=read_thresholds(name),
    )


def _checked_text_config(path: Path) -> dict[str, Any]:
    """The text tower's configuration of a folder in which nothing is left to fetch or to run."""
    model = read_object(path).get("model_cfg")
    text, vision = (_tower(model, name, path) for name in ("text_cfg", "vision_cfg"))
    if text.get("hf_model_name"):
        raise ValueError(
            f"{path}: text_cfg.hf_model_name is {text['hf_model_name']!r}, which would be fetched "
            "from a hub; expected a text tower of open_clip's own"
        )
    timm = vision.get("timm_model_name")
    if timm and not re.fullmatch(r"[\w.-]+", str(timm)):
        raise ValueError(
            f"{path}: vision_cfg.timm_model_name is {timm!r}; expected one that timm itself has"
        )
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict) or not options.keys() <= _TOKENIZER_OPTIONS:
        raise ValueError(
            f"{path}: text_cfg.tokenizer_kwargs is {options!r:.200}; expected some of "
            f"{sorted(_TOKENIZER_OPTIONS)}"
        )
    return text


def _tower(model: Any, name: str, path: Path) -> dict[str, Any]:
    tower = model.get(name) if isinstance(model, dict) else None
    if not isinstance(tower, dict):
        raise ValueError(f"{path}: model_cfg.{name} is {tower!r:.50}; expected an object")  # noqa: TRY004
    check_config(tower, str(path))
    return tower


def _folder_tokenizer(folder: Path, config: Mapping[str, Any]) -> Any:
    """The tokenizer that lies in a folder; CLIP's own where the configuration names none."""
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    length = config.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = config.get("tokenizer_kwargs") or {}
    if not config.get("hf_tokenizer_name"):
        return SimpleTokenizer(context_length=length, **options)
    return HFTokenizer(
        str(folder),
        context_length=length,
        tokenizer_mode=config.get("tokenizer_mode"),
        local_files_only=True,
        trust_remote_code=False,
        **options,
    )


def _preprocessing(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Size, mean and deviation that the image tower expects."""
    size = config["size"]
    sides = [size, size] if isinstance(size, int) else size
    found = {"size": (sides, 2), "mean": (config["mean"], 3), "std": (config["std"], 3)}
    for key, (values, count) in found.items():
        numbers = isinstance(values, list | tuple) and all(type(v) in (int, float) for v in values)
        if not numbers or len(values) != count:
            raise ValueError(
                f"the CLIP {name!r}: {key} is {values!r:.50}; expected {count} numbers"
            )
    return {key: tuple(values) for key, (values, _) in found.items()}


def require_clip(name: str | Path) -> None:
    """Require, without loading it, that there is a folder of that name or a model known by it.

    Of a folder the configuration is looked at too.

    Raises:
        FileNotFoundError, ValueError: As ``load_clip``.
    """
    name = located_clip(name)
    _resolve(name)
    if Path(name).is_dir():
        check_folder(Path(name))
        _checked_text_config(Path(name) / CONFIG)


def fetch_clip(name: str | Path) -> None:
    """Fetch what open_clip would only fetch once it loads a model by architecture and tag.

    Raises:
        FileNotFoundError, ValueError: As ``model_names.located``.
    """
    if not Path(name).is_dir() and (repository := hub_repository(str(name))) is not None:
        located(f"hf-hub:{repository}", "clip")


def hub_repository(name: str) -> str | None:
    """Where on the hub the weights of an architecture and tag lie; None where open_clip has none.

    Args:
        name: Such as ``ViT-L-14/openai``.
    """
    import open_clip

    architecture, _, tag = name.partition("/")
    place = open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub", "")
    return place.rpartition("/")[0] or None  # a file's name may follow


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
    own = read_object(path).get("emend", {})
    found = own.get("thresholds", {}) if isinstance(own, dict) else own
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
    config = read_object(path)
    config.setdefault("emend", {})["thresholds"] = dict(thresholds)
    write_lines(path, [json.dumps(config, indent=2)])


def _resolve(name: str) -> tuple[str, str | None]:
    """Turn a name into open_clip's ``model_name`` and ``pretrained``."""
    folder = Path(name)
    if folder.is_dir():
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"the CLIP folder {name} has no {file}")
        return f"local-dir:{name}", None
    import open_clip

    architecture, _, tag = name.partition("/")
    if tag not in open_clip.list_pretrained_tags_by_model(architecture):
        raise ValueError(
            f"the CLIP model {name!r} is neither a folder, nor shapes/clip, nor owner/name of the "
            "hub, nor architecture/tag as open_clip lists them"
        )
    return architecture, tag
