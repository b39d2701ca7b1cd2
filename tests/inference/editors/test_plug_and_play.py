"""Plug-and-Play: no injection is plain sampling, full injection of the same prompt the source."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from inference import attention
from inference.backbone import Backbone
from inference.editors.editor import EditRequest
from inference.editors.features import load_features, save_features
from inference.editors.plug_and_play import PlugAndPlay, attention_sites, copied_feature
from inference.guidance import cfg
from inference.inversion.inverted import Inverted, conditional
from inference.noise import keyed_noise
from inference.samplers import ddim
from inference.sampling import denoise

STEPS = 6
TARGETS = ["a red cat", "a dog"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return keyed_noise("pictures", shape=(2, 3, 32, 32)).tanh()


def latents(backbone: Backbone, images: Tensor, targets: list[str], **knobs: Any) -> Tensor:
    # The tiny tokenizer has a token a letter, too many for the usual negative prompt.
    editor = PlugAndPlay(backbone=backbone, steps=STEPS, negative_prompt="big", **knobs)
    with torch.no_grad():
        return editor.denoise_targets(targets, editor.invert(images))


def test_without_injection_it_is_guidance_from_the_inverted_noise(
    tiny_backbone: Backbone, images: Tensor
) -> None:
    sampler = ddim(tiny_backbone.scheduler, STEPS)
    found = latents(tiny_backbone, images, TARGETS, features=0.0, attention=0.0)
    with torch.no_grad():
        start = PlugAndPlay(backbone=tiny_backbone, steps=STEPS).invert(images).start
        texts = tiny_backbone.encode_text(["big", "big", *TARGETS])

        def predict(i: int, x: Tensor) -> Tensor:
            output = tiny_backbone.unet_output(torch.cat([x, x]), sampler.timesteps[i], texts)
            uncond, cond = output.chunk(2)
            return cfg(uncond, cond, 7.5)

        torch.testing.assert_close(found, denoise(predict, sampler, start), rtol=1e-3, atol=1e-3)


def test_all_of_the_source_injected_into_its_own_prompt_is_the_source(
    tiny_backbone: Backbone,
) -> None:
    editor = PlugAndPlay(
        backbone=tiny_backbone, steps=STEPS, negative_prompt="", features=1.0, attention=1.0
    )
    sampler = ddim(tiny_backbone.scheduler, STEPS)
    states = [sampler.init_scale * keyed_noise("start", shape=(2, 4, 8, 8))]
    with torch.no_grad():
        predict = conditional(tiny_backbone, ["", ""], sampler)
        denoise(predict, sampler, states[0], callback=lambda _, x: states.append(x))
        inverted = Inverted(
            prompts=("", ""), sampler=sampler, source_scale=1.0, trajectory=torch.stack(states)
        )
        found = editor.denoise_targets(["", ""], inverted)
    torch.testing.assert_close(found, states[-1], rtol=1e-3, atol=1e-3)


def test_queries_and_keys_are_the_source_s_at_the_sites_and_nowhere_else(
    tiny_backbone: Backbone, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: list[tuple[str, Tensor, Tensor]] = []
    used: list[tuple[Tensor, Tensor]] = []
    shared, attend = attention._SharingProcessor._shared, attention._attend

    def spied_shared(self: Any, attn: Any, is_cross: bool, q: Tensor, k: Tensor, *more: Any) -> Any:
        own.append((self._site, q, k))
        return shared(self, attn, is_cross, q, k, *more)

    def spied_attend(attn: Any, q: Tensor, k: Tensor, *more: Any) -> Tensor:
        used.append((q, k))
        return attend(attn, q, k, *more)

    monkeypatch.setattr(attention._SharingProcessor, "_shared", spied_shared)
    monkeypatch.setattr(attention, "_attend", spied_attend)
    editor = PlugAndPlay(backbone=tiny_backbone, steps=STEPS, negative_prompt="big")
    with torch.no_grad():
        inverted = editor.invert(images)
        editor.denoise_targets(TARGETS, inverted)
    sites = attention_sites(tiny_backbone.unet)
    calls = len(own) // STEPS
    assert sites < {site for site, _, _ in own}
    for number, ((site, *before), after) in enumerate(zip(own, used, strict=True)):
        copied = site in sites and number // calls < STEPS // 2
        for mine, taken in zip(before, after, strict=True):
            assert torch.equal(taken, mine[:2].repeat(3, 1, 1, 1) if copied else mine)


def test_each_injection_changes_the_target(tiny_backbone: Backbone, images: Tensor) -> None:
    plain = latents(tiny_backbone, images, TARGETS, features=0.0, attention=0.0)
    for knobs in ({"features": 0.5, "attention": 0.0}, {"features": 0.0, "attention": 0.5}):
        assert (latents(tiny_backbone, images, TARGETS, **knobs) - plain).abs().max() > 1e-3


def test_the_feature_of_both_targets_is_exactly_the_source_s(
    tiny_backbone: Backbone,
) -> None:
    unet, seen = tiny_backbone.unet, []
    with copied_feature(unet) as feature, torch.no_grad():
        # Registered later, so it sees what the first hook returned.
        conv = unet.get_submodule("up_blocks.0.resnets.1.conv2")
        handle = conv.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
        inputs = keyed_noise("x", shape=(6, 4, 8, 8)), 400
        text = tiny_backbone.encode_text(["a cat", "a red cat", "", "", "a dog", "a car"])
        tiny_backbone.unet_output(*inputs, text)
        feature.copied = True
        tiny_backbone.unet_output(*inputs, text)
        handle.remove()
    plain, copied = seen
    assert torch.equal(copied, plain[:2].repeat(3, 1, 1, 1))
    assert not torch.equal(plain[:2], plain[2:4])
    assert not conv._forward_hooks


@pytest.mark.parametrize(
    ("features", "self_attention"), [(0.8, 0.5), (0.0, 0.5), (0.8, 0.0), (0.0, 0.0)]
)
def test_stored_features_are_those_of_the_source(
    tiny_backbone: Backbone, images: Tensor, features: float, self_attention: float
) -> None:
    editor = PlugAndPlay(
        backbone=tiny_backbone,
        steps=STEPS,
        features=features,
        attention=self_attention,
        negative_prompt="big",
    )
    with torch.no_grad():
        expected = editor.denoise_targets(TARGETS, editor.invert(images))
        found = editor.denoise_from(TARGETS, editor.extract(images))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_features_come_back_from_disk_to_the_bit(
    tiny_backbone: Backbone, images: Tensor, tmp_path: Path
) -> None:
    editor = PlugAndPlay(backbone=tiny_backbone, steps=STEPS)
    with torch.no_grad():
        made = editor.extract(images)
    save_features(tmp_path / "made.safetensors", made)
    found = load_features(tmp_path / "made.safetensors", tiny_backbone.device)
    assert torch.equal(found.start, made.start)
    assert torch.equal(found.decoder, made.decoder)
    assert found.query_keys.keys() == made.query_keys.keys() == attention_sites(tiny_backbone.unet)
    for site, pair in made.query_keys.items():
        for one, other in zip(found.query_keys[site], pair, strict=True):
            assert torch.equal(one, other)


def test_a_second_edit_takes_a_picture_s_features_from_disk(
    tiny_backbone: Backbone, images: Tensor, tmp_path: Path
) -> None:
    online = PlugAndPlay(backbone=tiny_backbone, steps=STEPS, negative_prompt="big")
    stored, rows = replace(online, store=tmp_path), []
    requests = [
        EditRequest(image=image, target=target)
        for image, target in zip(images, TARGETS, strict=True)
    ]
    expected = online.edit(requests)
    handle = tiny_backbone.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    for made in (True, False):
        rows.clear()
        for one, other in zip(stored.edit(requests), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
        # The inversion, the source for its first steps, then two rows a step.
        once = STEPS + int(0.8 * STEPS)
        assert sum(rows) == 2 * (2 * STEPS + made * once)
    handle.remove()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_holds_no_features_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("hello")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    for name, text in (("a", "is not a safetensors file"), ("b", "holds no features")):
        with pytest.raises(ValueError, match=text):
            load_features(tmp_path / f"{name}.safetensors", torch.device("cpu"))


def test_through_the_interface(tiny_backbone: Backbone) -> None:
    wide = keyed_noise("wide", shape=(3, 24, 48)).tanh()
    editor = PlugAndPlay(backbone=tiny_backbone, steps=2, negative_prompt="big")
    [found] = editor.edit([EditRequest(image=wide, target="a cat")])
    assert found.shape == wide.shape


@pytest.mark.parametrize(
    ("request_fields", "text"),
    [
        ({"target": "a cat"}, "PlugAndPlay needs the request's image"),
        ({"image": torch.zeros(3, 32, 32), "instruction": "x"}, "needs the request's target"),
    ],
)
def test_what_is_missing_is_named(
    tiny_backbone: Backbone, request_fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        PlugAndPlay(backbone=tiny_backbone).edit([EditRequest(**request_fields)])


def test_fractions_are_checked(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="features is 2; expected a number from 0 to 1"):
        PlugAndPlay(backbone=tiny_backbone, features=2)
