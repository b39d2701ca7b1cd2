"""What an unknown option may have meant: other tools' names for ours, and near spellings."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

ELSEWHERE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "num_inference_steps": ("steps", "pairs.render.steps"),
        "num_steps": ("steps", "pairs.render.steps"),
        "ddim_steps": ("steps", "pairs.render.steps"),
        "guidance_scale": ("text_scale", "guidance_scale", "pairs.render.guidance_range"),
        "cfg": ("text_scale", "guidance_scale", "pairs.render.guidance_range"),
        "cfg_scale": ("text_scale", "guidance_scale", "pairs.render.guidance_range"),
        "cfg_text": ("text_scale",),
        "image_guidance_scale": ("image_scale",),
        "cfg_image": ("image_scale",),
        "prompt": ("instruction", "source"),
        "edit": ("instruction",),
        "edit_prompt": ("instruction",),
        "edit_instruction": ("instruction",),
        "image": ("images",),
        "input": ("images", "data", "source"),
        "input_image": ("images",),
        "init_image": ("images",),
        "out": ("output",),
        "output_dir": ("output",),
        "outdir": ("output",),
        "scheduler": ("sampler", "pairs.render.sampler"),
        "generator": ("seed", "seeds"),
        "ckpt": ("model", "model.base"),
        "checkpoint": ("model", "ckpt_path"),
        "pretrained_model_name_or_path": ("model", "model.base", "pairs.model"),
        "torch_dtype": ("dtype", "trainer.precision"),
        "precision": ("dtype", "trainer.precision", "pairs.precision"),
        "mixed_precision": ("trainer.precision", "pairs.precision"),
        "height": ("resolution",),
        "width": ("resolution",),
        "lr": ("model.optimizer.learning_rate",),
        "train_batch_size": ("data.batch_size",),
        "gradient_accumulation_steps": ("trainer.accumulate_grad_batches",),
        "max_train_steps": ("trainer.max_steps",),
        "num_train_epochs": ("trainer.max_steps",),
        "max_grad_norm": ("model.optimizer.clip_norm",),
        "checkpointing_steps": ("checkpoints.every",),
        "resume_from_checkpoint": ("ckpt_path",),
        "dataset_name": ("data.shards", "captions.dataset.name"),
        "train_data_dir": ("data.shards",),
        "report_to": ("trainer.logger",),
        "conditioning_dropout_prob": ("model.objective.dropout",),
        "use_ema": ("model.ema_decay",),
        "dataloader_num_workers": ("data.num_workers",),
        "num_workers": ("data.num_workers", "executor.workers"),
        "api_key": ("key_env", "instructions.key_env"),
        "api_base": ("base_url", "instructions.base_url"),
    }
)
"""Option of diffusers' pipelines and scripts or of other editors -> ours, by command."""

_SECTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("captions", "instructions", "pairs", "executor"), "a recipe of data run"),
        **dict.fromkeys(
            ("seed_everything", "trainer", "model", "data", "checkpoints", "progress"),
            "a recipe of train fit",
        ),
    }
)


def command_with(section: str) -> str | None:
    """The kind of recipe that has a section, for who gives it to another command."""
    return _SECTIONS.get(section)


def meant(option: str, known: Collection[str]) -> str | None:
    """The option that somebody meant, if one can tell.

    Args:
        option: What was written, without dashes before it or a value behind it.
        known: The options that there are.
    """
    name = option.replace("-", "_").lower()
    if name in known:
        return name
    for other in ELSEWHERE.get(name.rpartition(".")[2], ()):
        if other in known:
            return other
    last = {other.rpartition(".")[2]: other for other in sorted(known, key=len, reverse=True)}
    if (whole := last.get(name.rpartition(".")[2])) is not None:
        return whole
    near = get_close_matches(name, known, n=1) or [
        last[one] for one in get_close_matches(name, last, n=1)
    ]
    return near[0] if near else None
