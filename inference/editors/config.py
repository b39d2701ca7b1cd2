"""How pictures are edited: the options of each editor, and the names they go by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final, Literal

from inference.choices import SamplerName
from inference.config import Config
from inference.inversion.config import InversionConfig
from inference.number_types import (
    AttentionFactor,
    Finite,
    Fraction,
    FractionRange,
    PixelCount,
    PositiveCount,
    PositiveSmallCount,
    checks_numbers,
)

Window = FractionRange
"""From a first to before a last fraction of all steps, counted from the first one that is run."""

SELF_POSITIONS = 32 * 32
"""Self-attention is shared at sites of so many positions at most: finer ones hold no layout."""


class EditorConfig(Config):
    """The options of an editor."""


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class InstructConfig(EditorConfig):
    """InstructPix2Pix (Brooks et al. 2023): the input image's latents are extra UNet channels.

    Options that are None take what the checkpoint pins (`Backbone.settings`).

    Size: an image is resized so that its long side is `resolution` and both sides are multiples of
    what the model needs (each side to the nearest), edited there, and the result is resized back to
    the image's own size. An image that already is of that size is not resized at all.

    Attributes:
        text_scale: How strongly the instruction is followed, s_T; 1 is no guidance.
        image_scale: How strongly the input image is kept, s_I; 1 is no guidance.
        steps: Number of denoising steps.
        sampler: Name of the sampler.
        resolution: Long side in pixels at which to edit; None for the one the UNet was made for.
        batch_size: Most images edited at once.
    """

    of: ClassVar[str] = "inference.editors.instruct:Instruct"

    text_scale: Finite | None = None
    image_scale: Finite | None = None
    steps: PositiveSmallCount | None = None
    sampler: SamplerName | None = None
    resolution: PixelCount | None = None
    batch_size: PositiveSmallCount = 16


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class Blend:
    """Keep the source wherever neither prompt's words are to be seen (Prompt-to-Prompt, 3.2).

    Words are named as in `Prompt.find`, so that one of several alike can be meant.

    Attributes:
        source: Words of the source prompt whose place may change.
        target: Words of the target prompt that may show.
        subtract: Words of either prompt whose place is to stay, of those two.
        threshold: Share of the highest attention from which on a place counts.
        start: Fraction of all steps before which nothing is blended, counted from the first run.
        weighted: Whether words are looked for in the maps that their weights leave (as the authors'
            code does), or in those before; a word whose weight is 0 or less is not seen in the
            former.
    """

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    subtract: tuple[str, ...] = ()
    threshold: Finite = 0.3
    start: Fraction = 0.2
    weighted: bool = True

    def __post_init__(self) -> None:
        if not self.source and not self.target:
            raise ValueError("blend names no words; expected some of the source or of the target")


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class PromptToPromptConfig(EditorConfig):
    """Prompt-to-Prompt (Hertz et al. 2022).

    Windows are fractions of all steps and begin at the first step that is run, as the published
    ones do: behind an edit-friendly inversion of 100 steps that skips 36, (0, 0.4) holds steps 36
    to 75. To count from the first step of the schedule, take the skip off: (0, 0.04) ends where
    0.4 of the schedule does.

    Attributes:
        inversion: How pictures come in; None edits what the model draws for the source prompt.
        steps: Number of denoising steps.
        guidance_scale: Of classifier-free guidance, for source and target.
        substitute: Whether a word in place of another takes its attention (word swap), or only the
            words that both prompts share do (refinement).
        cross: When cross-attention is the source's: a window of the steps, counted from the first
            one after an inversion's skip (take the skip off to count from the schedule's).
        cross_of: The same for single words of the target prompt (`cat@2` is its second cat,
            `@12:15` the word at those characters).
        self_attention: When self-attention is the source's, counted likewise.
        self_positions: Most latent positions of a self-attention site that shares.
        weights: Words of the target prompt and the factors on the attention that they get, in
            [-2, 2]; this stops where `cross` does.
        blend: Where the source stays as it is; None lets all of it change.
        batch_size: Most pictures edited at once.
    """

    of: ClassVar[str] = "inference.editors.prompt_to_prompt:PromptToPrompt"

    inversion: InversionConfig | None = None
    steps: PositiveSmallCount = 50
    guidance_scale: Finite = 7.5
    substitute: bool = True
    cross: Window = (0.0, 0.8)
    cross_of: Mapping[str, Window] = field(default_factory=dict)
    self_attention: Window = (0.0, 0.4)
    self_positions: PositiveCount = SELF_POSITIONS
    weights: Mapping[str, AttentionFactor] = field(default_factory=dict)
    blend: Blend | None = None
    batch_size: PositiveSmallCount = 8


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class PlugAndPlayConfig(EditorConfig):
    """Plug-and-Play diffusion features (Tumanyan et al. 2023).

    Attributes:
        steps: Number of denoising steps, and of those of the inversion.
        guidance_scale: Of classifier-free guidance.
        negative_prompt: What the picture is to be led away from.
        features: Fraction of the steps in which the decoder feature is the source's.
        attention: Fraction of the steps in which the target attends as the source does.
        store: Folder that keeps what is taken from a picture, for its next edit: two thirds of the
            UNet rows, but much disk. None takes it from the source as the target is drawn.
        batch_size: Most pictures edited at once.
    """

    of: ClassVar[str] = "inference.editors.plug_and_play:PlugAndPlay"

    steps: PositiveSmallCount = 50
    guidance_scale: Finite = 7.5
    negative_prompt: str = "ugly, blurry, black, low res, unrealistic"
    features: Fraction = 0.8
    attention: Fraction = 0.5
    store: Path | None = None
    batch_size: PositiveSmallCount = 8


@checks_numbers
@dataclass(frozen=True, kw_only=True)
class SdEditConfig(EditorConfig):
    """SDEdit (Meng et al. 2022), on the latents of a text-to-image model.

    Attributes:
        strength: Fraction of the steps that are done, in [0, 1]; 0 is the VAE's round trip.
        repeats: How often the picture is noised and denoised.
        space: Where what may not change is put back: in the latents after every step, or also in
            the pixels after every repeat, where it then is exactly as it was.
        inversion: Takes the noisy state, and what may not change of the states after it, from the
            picture's inversion instead of fresh noise.
        steps: Number of denoising steps at strength 1.
        guidance_scale: Of classifier-free guidance.
        sampler: Name of the sampler; None is the inversion's own, `ddim`, where there is one, else
            `euler_ancestral`.
        batch_size: Most pictures edited at once.
    """

    of: ClassVar[str] = "inference.editors.sdedit:SdEdit"

    strength: Fraction = 0.6
    repeats: PositiveSmallCount = 1
    space: Literal["latent", "pixel"] = "latent"
    inversion: InversionConfig | None = None
    steps: PositiveSmallCount = 50
    guidance_scale: Finite = 7.5
    sampler: SamplerName | None = None
    batch_size: PositiveSmallCount = 8

    def __post_init__(self) -> None:
        if self.inversion is not None and self.repeats > 1:
            raise ValueError("an inversion gives one noisy state; expected repeats to be 1")
        if self.inversion is not None and self.sampler not in (None, "ddim"):
            raise ValueError(
                f"sampler is {self.sampler!r} and there is an inversion; expected 'ddim', whose "
                "states an inversion finds, or None"
            )


EDITORS: Final[Mapping[str, type[EditorConfig]]] = MappingProxyType(
    {
        "instruct": InstructConfig,
        "prompt_to_prompt": PromptToPromptConfig,
        "plug_and_play": PlugAndPlayConfig,
        "sdedit": SdEditConfig,
    }
)
