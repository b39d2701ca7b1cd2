"""Numbers that are not finite end an edit with a sentence that names the part they come from."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inference.backbone import Backbone, NotFinite
from inference.editors.editor import Editor, EditRequest
from inference.editors.instruct import Instruct
from inference.editors.plug_and_play import PlugAndPlay
from inference.editors.prompt_to_prompt import PromptToPrompt
from inference.editors.sdedit import SdEdit
from inference.inversion.ddim import Ddim, Direct, NegativePrompt, Proximal
from inference.inversion.edit_friendly import EditFriendly
from inference.inversion.inverted import Inversion
from inference.noise import keyed_noise

PICTURE: Tensor = keyed_noise("picture", shape=(3, 32, 32)).tanh()
PARTS: dict[str, Callable[[Backbone], nn.Module]] = {
    "VAE encoder": lambda backbone: backbone.vae.encoder,
    "VAE decoder": lambda backbone: backbone.vae.decoder,
    "UNet": lambda backbone: backbone.unet,
    "text encoder": lambda backbone: backbone.text_encoder,
}
INVERSIONS = (Ddim(), NegativePrompt(), Proximal(), Direct(), EditFriendly())


def broken(backbone: Backbone, part: str) -> Backbone:
    """The same with infinities in a part, as if it had overflowed."""
    with torch.no_grad():
        next(PARTS[part](backbone).parameters()).fill_(torch.inf)
    return backbone


def p2p(inversion: Inversion | None) -> Callable[[Backbone], Editor]:
    return lambda backbone: PromptToPrompt(backbone=backbone, inversion=inversion, steps=2)


EDITORS: dict[str, Callable[[Backbone], Editor]] = {
    "Plug-and-Play": lambda backbone: PlugAndPlay(backbone=backbone, steps=2, negative_prompt=""),
    "SDEdit": lambda backbone: SdEdit(backbone=backbone, steps=2),
    "P2P drawn": p2p(None),
    **{f"P2P {type(one).__name__}": p2p(one) for one in INVERSIONS},
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", EDITORS)
def test_an_overflow_names_its_part(build_backbone, name: str, part: str) -> None:
    if name == "P2P drawn" and part == "VAE encoder":
        return  # which it does not use
    image = None if name == "P2P drawn" else PICTURE
    editor = EDITORS[name](broken(build_backbone("epsilon"), part))
    with pytest.raises(NotFinite, match=f"the {part} gave numbers that are not finite in float32"):
        editor.edit([EditRequest(image=image, source="a cat", target="a dog")])


@pytest.mark.parametrize("part", PARTS)
def test_so_does_that_of_an_instruction_editor(build_backbone, part: str) -> None:
    backbone = broken(build_backbone("epsilon", in_channels=8), part)
    with pytest.raises(NotFinite, match=f"the {part} gave"):
        Instruct(backbone=backbone, steps=2).edit([EditRequest(image=PICTURE, instruction="go")])


def test_a_wider_precision_is_advised_where_there_is_one() -> None:
    assert str(NotFinite("UNet", torch.float16)).endswith("float16: try bfloat16 or float32")
    assert str(NotFinite("UNet", torch.bfloat16)).endswith("bfloat16: try float32")


@torch.no_grad()
def test_whoever_looks_for_himself_gets_every_picture(build_backbone) -> None:
    backbone = build_backbone("epsilon")
    latents = keyed_noise("latents", shape=(2, 4, 8, 8))
    latents[1, 0, 0, 0] = torch.inf
    good, bad = backbone.decode(latents, check=False)
    assert good.isfinite().all()
    assert bad.isnan().any()
    with pytest.raises(NotFinite):
        backbone.decode(latents)
