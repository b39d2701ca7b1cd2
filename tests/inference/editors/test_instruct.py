"""Editing by instruction: equal to stock diffusers where that is right, right where it is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
from torch import Tensor

from inference.backbone import Backbone, PromptTooLong, load_backbone
from inference.editors.editor import EditRequest
from inference.editors.instruct import Instruct
from inference.noise import keyed_noise
from inference.sampling import denoise
from inference.saving import stock_pipeline
from inference.settings import Settings

SCALES = [(7.5, 1.5), (3.0, 1.0), (1.5, 2.5)]
INSTRUCTIONS = ["make it red", "add a cat"]


@pytest.fixture(scope="module")
def backbone(build_backbone: Callable[..., Backbone]) -> Backbone:
    return build_backbone("v_prediction", in_channels=8)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return keyed_noise("images", shape=(2, 3, 32, 32)).clamp(-1, 1)


def as_requests(images: Tensor, seed: int = 0) -> list[EditRequest]:
    pairs = zip(images, INSTRUCTIONS, strict=True)
    return [EditRequest(image=image, instruction=text, seed=seed) for image, text in pairs]


@pytest.mark.parametrize(("text_scale", "image_scale"), SCALES)
@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_latents_equal_stock_diffusers(
    build_backbone: Callable[..., Backbone],
    images: Tensor,
    prediction: str,
    sampler: str,
    text_scale: float,
    image_scale: float,
) -> None:
    backbone, steps = build_backbone(prediction, in_channels=8), 8
    editor = Instruct(
        backbone=backbone,
        text_scale=text_scale,
        image_scale=image_scale,
        steps=steps,
        sampler=sampler,  # type: ignore[arg-type]
    )
    stock = stock_pipeline(backbone)
    stock.set_progress_bar_config(disable=True)
    if sampler == "euler_ancestral":
        stock.scheduler = EulerAncestralDiscreteScheduler.from_config(backbone.scheduler.config)
    start = keyed_noise("start", shape=(2, 4, 8, 8))
    theirs, ours = (torch.Generator().manual_seed(3) for _ in range(2))
    expected = stock(
        prompt=INSTRUCTIONS,
        image=images,
        latents=start,
        num_inference_steps=steps,
        guidance_scale=text_scale,
        image_guidance_scale=image_scale,
        generator=theirs,
        output_type="latent",
    ).images
    tables = editor.make_sampler()
    found = denoise(
        editor.predictor(images, INSTRUCTIONS, tables),
        tables,
        tables.init_scale * start,
        noise=lambda _: torch.randn(start.shape, generator=ours),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("zero_null", [True, False])
def test_xl_latents_equal_stock_diffusers(
    build_backbone: Callable[..., Backbone], images: Tensor, zero_null: bool
) -> None:
    backbone = replace(build_backbone(xl=True, in_channels=8), zero_null=zero_null)
    editor = Instruct(backbone=backbone, text_scale=7.5, image_scale=1.5, steps=8, sampler="ddim")
    stock = stock_pipeline(backbone)
    stock.set_progress_bar_config(disable=True)
    start = keyed_noise("start", shape=(2, 4, 8, 8))
    expected = stock(
        prompt=INSTRUCTIONS,
        image=images,
        height=32,
        width=32,
        latents=start,
        num_inference_steps=8,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        negative_prompt=None if zero_null else ["", ""],
        output_type="latent",
    ).images
    tables = editor.make_sampler()
    found = denoise(editor.predictor(images, INSTRUCTIONS, tables), tables, start)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_folder_gives_the_same_edit_as_stock_diffusers(
    backbone: Backbone, images: Tensor, tmp_path: Path
) -> None:
    stock_pipeline(backbone).save_pretrained(tmp_path)
    stock = StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    start = keyed_noise("edit", 5, "start", shape=(4, 8, 8)).expand(2, -1, -1, -1)
    expected = stock(
        prompt=INSTRUCTIONS,
        image=images,
        latents=start,
        num_inference_steps=5,
        guidance_scale=4.0,
        image_guidance_scale=1.5,
        output_type="pt",
    ).images
    editor = Instruct(
        backbone=load_backbone(tmp_path), text_scale=4, image_scale=1.5, steps=5, sampler="ddim"
    )
    found = torch.stack(editor.edit(as_requests(images, seed=5)))
    torch.testing.assert_close(found / 2 + 0.5, expected, rtol=0, atol=1e-4)


def test_an_image_scale_below_one_still_guides(backbone: Backbone, images: Tensor) -> None:
    """Stock diffusers drops all guidance there; ours follows the equation."""

    def edit(text_scale: float, image_scale: float) -> Tensor:
        editor = Instruct(
            backbone=backbone, text_scale=text_scale, image_scale=image_scale, steps=3
        )
        return torch.stack(editor.edit(as_requests(images)))

    weak = edit(5.0, 0.9)
    assert not torch.equal(weak, edit(1.0, 1.0))
    assert not torch.equal(weak, edit(2.0, 0.9))
    # continuous: just below 1 is next to 1
    torch.testing.assert_close(edit(5.0, 0.9999), edit(5.0, 1.0), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("scales", "rows"), [((7.5, 1.5), 3), ((4.0, 1.0), 2), ((2.0, 2.0), 2), ((1.0, 1.0), 1)]
)
def test_terms_that_do_not_count_are_not_computed(
    backbone: Backbone, images: Tensor, scales: tuple[float, float], rows: int
) -> None:
    seen: list[int] = []
    handle = backbone.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    Instruct(backbone=backbone, text_scale=scales[0], image_scale=scales[1], steps=1).edit(
        as_requests(images)
    )
    handle.remove()
    assert seen == [rows * len(images)]


def test_unguided_prediction_is_the_conditional_one(backbone: Backbone, images: Tensor) -> None:
    editor = Instruct(backbone=backbone, text_scale=1, image_scale=1, steps=4, sampler="ddim")
    tables = editor.make_sampler()
    x = keyed_noise("x", shape=(2, 4, 8, 8))
    expected = backbone.unet(
        torch.cat([x, backbone.encode_condition(images)], dim=1),
        tables.timesteps[2],
        encoder_hidden_states=backbone.encode_text(INSTRUCTIONS).states,
    ).sample
    assert torch.equal(editor.predictor(images, INSTRUCTIONS, tables)(2, x), expected)


def test_a_batch_is_what_its_edits_are_alone(backbone: Backbone, images: Tensor) -> None:
    requests = as_requests(images, seed=7)
    requests.append(replace(requests[0], image=requests[0].image[:, :16], seed=8))
    together = Instruct(backbone=backbone, steps=3, text_scale=2.0).edit(requests)
    one = Instruct(backbone=backbone, steps=3, text_scale=2.0, batch_size=1)
    for request, image in zip(requests, together, strict=True):
        torch.testing.assert_close(one.edit([request])[0], image, rtol=0, atol=1e-4)
    assert one.edit([]) == []


@pytest.mark.parametrize(
    ("size", "resolution", "working"),
    [
        ((32, 32), None, (32, 32)),
        ((64, 64), None, (32, 32)),
        ((64, 64), 64, (64, 64)),
        ((30, 60), None, (16, 32)),
        ((20, 90), 48, (8, 48)),
        ((5, 3), None, (32, 16)),
    ],
)
def test_images_of_any_size_keep_it(
    backbone: Backbone, size: tuple[int, int], resolution: int | None, working: tuple[int, int]
) -> None:
    seen: list[tuple[int, ...]] = []
    handle = backbone.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2:]))
    image = torch.zeros(3, *size)
    editor = Instruct(backbone=backbone, steps=1, resolution=resolution)
    (edited,) = editor.edit([EditRequest(image=image, instruction="make it red")])
    handle.remove()
    assert edited.shape == image.shape
    assert edited.abs().max() <= 1
    assert seen == [(working[0] // 4, working[1] // 4)]


def test_what_the_checkpoint_pins_is_used_unless_said_otherwise(
    backbone: Backbone, images: Tensor
) -> None:
    settings = Settings(text_scale=2.0, image_scale=1.2, steps=2, sampler="ddim")
    pinned = replace(backbone, settings=settings)
    said = Instruct(backbone=backbone, text_scale=2, image_scale=1.2, steps=2, sampler="ddim")
    requests = as_requests(images)
    for a, b in zip(Instruct(backbone=pinned).edit(requests), said.edit(requests), strict=True):
        assert torch.equal(a, b)
    assert Instruct(backbone=pinned, steps=3).make_sampler().steps == 3


def test_what_an_editor_lacks_is_named(
    backbone: Backbone, build_backbone: Callable[..., Backbone], images: Tensor
) -> None:
    with pytest.raises(ValueError, match="backbone: its UNet takes 4 input channels"):
        Instruct(backbone=build_backbone())
    with pytest.raises(ValueError, match="text_scale is nan"):
        Instruct(backbone=backbone, text_scale=float("nan"))
    with pytest.raises(ValueError, match="steps is 0; expected a whole number from 1"):
        Instruct(backbone=backbone, steps=0)
    with pytest.raises(PromptTooLong, match="has 42 tokens"):
        Instruct(backbone=backbone, steps=1).edit(
            [EditRequest(image=images[0], instruction="x " * 40)]
        )


def test_a_request_is_checked(images: Tensor) -> None:
    with pytest.raises(ValueError, match="the instruction is empty"):
        EditRequest(image=images[0], instruction=" ")
    with pytest.raises(ValueError, match=r"image has shape \(2, 3, 32, 32\)"):
        EditRequest(image=images, instruction="make it red")
