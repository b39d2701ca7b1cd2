"""What the editors have in common: the kind of model that they take, and how many pictures."""

import pytest
import torch

from inference.backbone import Backbone
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.editors.plug_and_play import PlugAndPlay
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.editors.sdedit import SdEdit
from inference.inversion.ddim import Ddim
from inference.inversion.inverted import InversionRequest

IMAGE = torch.zeros(3, 32, 32)
BY_PROMPTS = [PromptToPrompt, PlugAndPlay, SdEdit]


@pytest.mark.parametrize("kind", BY_PROMPTS)
def test_an_editor_of_the_other_kind_is_named(build_backbone, kind: type) -> None:
    with pytest.raises(ValueError, match=f"8 input channels, but {kind.__name__} needs 4"):
        kind(backbone=build_backbone(in_channels=8))


def test_so_it_is_by_an_inversion(build_backbone) -> None:
    with pytest.raises(ValueError, match="8 input channels, but an inversion needs 4"):
        InversionRequest(
            backbone=build_backbone(in_channels=8),
            images=IMAGE[None],
            prompts=("a cat",),
            steps=2,
            guidance_scale=1.0,
        )


@pytest.mark.parametrize("kind", [*BY_PROMPTS, Instruct])
@pytest.mark.parametrize("batch_size", [0, -1])
def test_some_pictures_must_be_edited_at_once(build_backbone, kind: type, batch_size: int) -> None:
    backbone: Backbone = build_backbone(in_channels=8 if kind is Instruct else 4)
    knobs = {"negative_prompt": ""} if kind is PlugAndPlay else {}
    knobs |= {"inversion": Ddim()} if kind is PromptToPrompt else {}
    request = EditRequest(image=IMAGE, instruction="a cat", source="a cat", target="a dog")
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; expected a whole number"):
        kind(backbone=backbone, batch_size=batch_size, steps=2, **knobs).edit([request])
