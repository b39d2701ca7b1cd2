"""Read Stable Diffusion from one file, a `.ckpt` or a `.safetensors` with the original names.

Weights are converted by diffusers' own functions, but the configuration is taken from the tensors
(see `architecture`) and nothing from a model hub.

A `.ckpt` is a pickle. It is read without running anything in it: tensors are taken, and whatever
else it names becomes an inert stand-in.
"""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from inference.backbone import Backbone
from inference.choices import PredictionType
from inference.loading import (
    check_config,
    load_tokenizer,
    loading,
    scheduler_kind,
)
from inference.outside import parse_object
from inference.settings import settings_of
from inference.single_file import architecture
from inference.single_file.architecture import Family
from inference.single_file.original_names import CLIP, OPEN_CLIP, UNET, XL_CLIP, XL_OPEN_CLIP
from inference.single_file.writing import METADATA
from inference.tensors import read_tensors

_EMA: Final = "model_ema."
_COUNTERS: Final = {"model_ema.decay", "model_ema.num_updates"}
"""They stay in files from which the average itself was pruned."""
_NEEDED: Final = ("unet", "vae", "text_encoder", "scheduler", "settings")
_WRAPPERS: Final = {"_orig_mod", "module"}
"""Parts of names by which torch.compile and DataParallel say that they wrap a module."""

Tensors = Mapping[str, Tensor]
Configs = Mapping[str, Any]


class _Inert:
    """Stands for whatever a pickle names beside tensors; takes anything, does nothing."""

    def __new__(cls, *positional: Any, **named: Any) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def read_original(path: Path, *, ema: bool = True) -> tuple[dict[str, Tensor], Configs]:
    """Tensors of a single file under their original names, and the configurations it carries.

    Args:
        path: A `.safetensors` or a `.ckpt`.
        ema: Of a file that holds the UNet's weights twice, take the moving average.

    Returns:
        Tensors without those of the UNet that were not chosen, and the configurations of a file
        that `write_original` wrote; {} for others.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read safely, or its average is not whole.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        metadata, tensors = read_tensors(path, "cpu")
        return _chosen(_renamed(tensors, path), ema=ema, path=path), _carried(metadata, path)
    if path.suffix != ".ckpt":
        raise ValueError(f"{path} has the suffix {path.suffix!r}; expected .safetensors or .ckpt")
    return _chosen(_renamed(_read_pickled(path), path), ema=ema, path=path), {}


def _renamed(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under their original names, whatever wrapped the model that was saved."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        original = _original_name(name)
        if original in found:
            raise ValueError(f"{path} holds {original} twice, once as {name}")
        found[original] = tensor
    return found


def _original_name(name: str) -> str:
    bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    if bare.startswith(_EMA):  # the average's names have no dots
        inner = bare.removeprefix(_EMA).replace("_orig_mod", "")
        return _EMA + re.sub("^module(?=diffusion_model)", "", inner)
    for prefix in (CLIP, XL_CLIP):
        # transformers 5.6 dropped the prefix, so files that were converted since may lack it
        if re.match(r"(embeddings|encoder|final_layer_norm)\.", bare.removeprefix(prefix)):
            return f"{prefix}text_model.{bare.removeprefix(prefix)}"
    return bare


def _carried(metadata: Mapping[str, str], path: Path) -> Configs:
    """The configurations that `write_original` put into a file; {} where there are none."""
    if METADATA not in metadata:
        return {}
    name = f"the metadata {METADATA!r} of {path}"
    configs = parse_object(metadata[METADATA], name)
    for part in (*_NEEDED, *(["text_encoder_2"] if "text_encoder_2" in configs else [])):
        if not isinstance(configs.get(part), dict):
            found = f"{configs.get(part)!r:.50}"
            raise ValueError(f"{name}: {part} is {found}; expected an object")  # noqa: TRY004
    check_config(configs, name)
    scheduler_kind(configs["scheduler"], f"{name}: scheduler")
    settings_of(configs["settings"], f"{name}: settings")
    return configs


def _read_pickled(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no checkpoint of torch 1.6 or later")
    serialization = torch.serialization
    try:
        named = serialization.get_unsafe_globals_in_checkpoint(path)
        with serialization.safe_globals([(_Inert, name) for name in named]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle's, torch's own and RuntimeError
        raise ValueError(f"{path} cannot be read without running what it holds") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _chosen(tensors: dict[str, Tensor], *, ema: bool, path: Path) -> dict[str, Tensor]:
    """One set of weights for the UNet; the average is kept under names without dots."""
    found = {name: t for name, t in tensors.items() if not name.startswith(_EMA)}
    if tensors.keys() - found.keys() <= _COUNTERS or not ema:
        return found
    for name in found:
        if name.startswith(UNET):
            averaged = _EMA + name.removeprefix("model.").replace(".", "")
            if averaged not in tensors:
                raise ValueError(f"{path} holds a moving average without {averaged}")
            found[name] = tensors[averaged]
    return found


def backbone_of(
    tensors: Tensors,
    configs: Configs,
    *,
    prediction_type: PredictionType | None = None,
    native_size: int | None = None,
    tokenizer: Path | None = None,
) -> Backbone:
    """Put a backbone together from tensors under their original names.

    Args:
        tensors: Those of a whole Stable Diffusion 1.x, 2.x or XL.
        configs: Diffusers' configurations by part, as `write_original` keeps them; {} where the
            file says nothing and its shapes must tell.
        prediction_type: What the UNet predicts; None takes what the file or its family says.
        native_size: Side in pixels that the UNet was made for; None takes the family's.
        tokenizer: Folder of a tokenizer; None takes CLIP's.

    Raises:
        ValueError: It is no such model, or its shapes leave open what the UNet predicts.
    """
    family = architecture.family_of(tensors)
    if configs and (prediction_type or native_size):
        raise ValueError(
            "the file says what it predicts and for which size it was made: "
            "leave prediction_type and native_size out"
        )
    if not configs:
        try:
            configs = architecture.configs_of(tensors, family, prediction_type, native_size)
        except (IndexError, TypeError) as error:
            raise ValueError("the file's tensors have shapes of no Stable Diffusion") from error
    vae: Configs = configs["vae"]
    unet: Configs = configs["unet"]
    encoders = _text_encoders(tensors, configs, family)
    with loading("the file's scheduler"):
        scheduler = scheduler_kind(configs["scheduler"], "the file").from_config(
            configs["scheduler"]
        )
    return Backbone(
        unet=_filled(
            _made(UNet2DConditionModel, unet),
            lambda: convert_ldm_unet_checkpoint(dict(tensors), unet),
        ),
        vae=_filled(
            _made(AutoencoderKL, vae), lambda: convert_ldm_vae_checkpoint(dict(tensors), vae)
        ),
        **encoders,
        **_tokenizers(
            family, tokenizer, [encoder.config.vocab_size for encoder in encoders.values()]
        ),
        scheduler=scheduler,
        zero_null=bool(configs.get("zero_null", family == "xl")),
        settings=settings_of(configs.get("settings", {}), "the file's settings"),
    )


def _text_encoders(tensors: Tensors, configs: Configs, family: Family) -> dict[str, Any]:
    first = _made_text_encoder(CLIPTextModel, configs, "text_encoder")
    if family == "2":
        return {
            "text_encoder": _filled(
                first, lambda: convert_open_clip_checkpoint(first, dict(tensors), prefix=OPEN_CLIP)
            )
        }
    found = {"text_encoder": _filled(first, lambda: convert_ldm_clip_checkpoint(dict(tensors)))}
    if family == "xl":
        second = _made_text_encoder(CLIPTextModelWithProjection, configs, "text_encoder_2")
        found["text_encoder_2"] = _filled(
            second,
            lambda: convert_open_clip_checkpoint(second, dict(tensors), prefix=XL_OPEN_CLIP),
        )
    return found


def _made_text_encoder(kind: Any, configs: Configs, part: str) -> Any:
    if part not in configs:
        raise ValueError(f"the file's metadata say nothing of its {part}")
    with loading(f"the file's {part}"):
        return kind(CLIPTextConfig(**configs[part]))


def _made(kind: Any, config: Configs) -> nn.Module:
    # the weights come right after
    with loading(f"the file's {kind.__name__}"), torch.device("meta"):
        model: nn.Module = kind.from_config(config)
    return model


def _filled(model: nn.Module, convert: Callable[[], Tensors]) -> nn.Module:
    """A model with the file's own tensors as its weights, in their dtype.

    Args:
        model: What to fill.
        convert: Gives the tensors under the names of diffusers.

    Raises:
        ValueError: The weights are not those of such a model.
    """
    with loading(f"the file's {type(model).__name__}"):
        weights = convert()
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    # transformers 5.6 dropped the prefix of CLIPTextModel's names, converters still write it
    renamed = {
        name if name in own else name.removeprefix("text_model."): tensor.contiguous()
        for name, tensor in weights.items()
        if not name.endswith("position_ids")
    }
    found = {name: tensor.shape for name, tensor in renamed.items()}
    for name in sorted({*own, *found}):
        if own.get(name) != found.get(name):
            kind, expected = type(model).__name__, own.get(name)
            raise ValueError(
                f"the file's {kind} has {name} of shape {_shown(found.get(name))}; "
                f"expected {_shown(expected)}"
            )
    if packed := [name for name, tensor in renamed.items() if not tensor.is_floating_point()]:
        raise ValueError(
            f"the file's {type(model).__name__} has {packed[0]} in {renamed[packed[0]].dtype}; "
            "expected floating point"
        )
    model.load_state_dict(renamed, assign=True)
    return model.eval().requires_grad_(False)


def _shown(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _tokenizers(family: Family, folder: Path | None, vocabularies: Sequence[int]) -> dict[str, Any]:
    """CLIP's own, as open_clip carries it; those of OpenCLIP's encoders pad with token 0."""
    if folder is not None:
        plain = zeros = load_tokenizer(CLIPTokenizer, folder)
    else:
        plain, zeros = clip_tokenizer(), clip_tokenizer("!")
    for vocabulary in vocabularies:
        if len(plain) != vocabulary:
            raise ValueError(
                f"the text encoder knows {vocabulary} tokens and the tokenizer {len(plain)}: "
                "say tokenizer, the folder of the model's own"
            )
    if family == "xl":
        return {"tokenizer": plain, "tokenizer_2": zeros}
    return {"tokenizer": zeros if family == "2" else plain}


def clip_tokenizer(padding: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer, from the vocabulary that the package open_clip carries."""
    carried = open_clip.tokenizer.SimpleTokenizer()
    vocabulary: dict[str, int] = dict(carried.encoder)
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return CLIPTokenizer(
        vocab={special.get(token, token): number for token, number in vocabulary.items()},
        merges=list(carried.bpe_ranks),
        model_max_length=77,
        pad_token=padding,
    )
