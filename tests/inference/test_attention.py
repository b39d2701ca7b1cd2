"""Sharing rows of q and k is sharing of attention maps; losing control is an error."""

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from inference.attention import (
    LostHook,
    MapRecorder,
    NoSites,
    RowSharing,
    controlled,
)
from inference.backbone import Backbone, size_condition
from inference.cross_maps import CrossMaps, RowPairs
from inference.noise import keyed_noise
from inference.samplers import ddim
from inference.sampling import denoise
from inference.text import Text
from scripts.bench.written_maps import written_maps

ROWS = ((0, 1), (2, 3))
PAIR = RowSharing(self_attention=ROWS)
BOTH = RowSharing(self_attention=ROWS, cross_attention=ROWS)
MIXED = RowSharing(self_attention=ROWS[:1], cross_attention=ROWS[1:])


@pytest.fixture
def unet(tiny_backbone: Backbone) -> UNet2DConditionModel:
    return tiny_backbone.unet


def inputs(rows: int) -> tuple[Tensor, int, Tensor]:
    """Different latents and a different prompt in every row."""
    return (
        keyed_noise("latents", shape=(rows, 4, 8, 8)),
        400,
        keyed_noise("text", shape=(rows, 32, 32)),
    )


def call(unet: UNet2DConditionModel, x: Tensor, t: int, text: Tensor) -> Tensor:
    """The output for (B, L, 32) texts, repeated up to the width that the UNet takes."""
    states = text.repeat(1, 1, unet.config.cross_attention_dim // 32)
    summary = text[:, 0, :24] if unet.config.addition_embed_type else None
    output: Tensor = unet(
        x,
        t,
        encoder_hidden_states=states,
        added_cond_kwargs=size_condition(Text(states, summary), x, 4),
    ).sample
    return output


def test_without_sharing_nothing_changes(unet: UNet2DConditionModel) -> None:
    expected = call(unet, *inputs(4))
    with controlled(unet) as hooks:
        assert torch.equal(call(unet, *inputs(4)), expected)
        hooks.sharing = PAIR
        assert not torch.equal(call(unet, *inputs(4)), expected)
        hooks.sharing = None
        assert torch.equal(call(unet, *inputs(4)), expected)
    assert torch.equal(call(unet, *inputs(4)), expected)


@pytest.mark.parametrize("sharing", [PAIR, BOTH, MIXED])
def test_source_rows_are_unaffected_and_targets_are_not(
    unet: UNet2DConditionModel, sharing: RowSharing
) -> None:
    plain = call(unet, *inputs(4))
    with controlled(unet, sharing):
        shared = call(unet, *inputs(4))
    assert torch.equal(shared[[0, 2]], plain[[0, 2]])
    assert (shared[[1, 3]] - plain[[1, 3]]).abs().amax(dim=(1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("sharing", [PAIR, BOTH, MIXED])
def test_equal_rows_stay_equal(unet: UNet2DConditionModel, sharing: RowSharing) -> None:
    x, t, text = inputs(4)
    rows = [0, 0, 2, 2]
    with controlled(unet, sharing):
        shared = call(unet, x[rows], t, text[rows])
    assert torch.equal(shared[0], shared[1])
    assert torch.equal(shared, call(unet, x[rows], t, text[rows]))


def test_equal_prompts_and_noise_are_plain_sampling(tiny_backbone: Backbone) -> None:
    """Prompt-to-Prompt with equal prompts: both rows are what sampling alone gives."""
    unet, sampler = tiny_backbone.unet, ddim(tiny_backbone.scheduler, 5)
    text = tiny_backbone.encode_text(["a red cat"] * 2)
    start = keyed_noise("start", shape=(1, 4, 8, 8)).expand(2, -1, -1, -1)

    def predict(i: int, x: Tensor) -> Tensor:
        return tiny_backbone.unet_output(x, sampler.timesteps[i], text)

    plain = denoise(predict, sampler, start)
    pair = RowSharing(self_attention=((0, 1),), cross_attention=((0, 1),))
    with controlled(unet, pair):
        shared = denoise(predict, sampler, start)
    assert torch.equal(shared[0], shared[1])
    assert torch.equal(shared, plain)


@pytest.mark.parametrize("sharing", [PAIR, BOTH, MIXED])
def test_row_copies_equal_copied_maps(unet: UNet2DConditionModel, sharing: RowSharing) -> None:
    with controlled(unet, sharing):
        shared = call(unet, *inputs(5))

    def copied(maps: Tensor, is_cross: bool) -> Tensor:
        for source, target in sharing.cross_attention if is_cross else sharing.self_attention:
            maps[target] = maps[source]
        return maps

    with written_maps(unet, copied):
        expected = call(unet, *inputs(5))
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"norm_num_groups": 4, "residual_connection": True, "rescale_output_factor": 1.5},
        {"scale_qk": False},
        {"qk_norm": "layer_norm"},
        {"bias": True, "upcast_attention": True},
        {"cross_attention_dim": 12, "cross_attention_norm": "layer_norm"},
    ],
)
@pytest.mark.parametrize("form", ["tokens", "image", "masked"])
def test_every_option_of_an_attention_site(options: dict[str, object], form: str) -> None:
    """The processor computes what diffusers' own does, whatever the site is made of."""
    torch.manual_seed(0)
    site = Attention(query_dim=16, heads=2, dim_head=8, **options).requires_grad_(False)  # type: ignore[arg-type]
    model = nn.ModuleDict({"site": site})
    tokens = torch.randn(3, 16, 4, 4) if form == "image" else torch.randn(3, 6, 16)
    context = torch.randn(3, 6, 12) if "cross_attention_dim" in options else None
    mask = None
    if form == "masked":
        mask = torch.zeros(3, 1, 6)
        mask[:, :, 4:] = -10000.0
    expected = site(tokens, context, mask)
    with controlled(model):
        found = site(tokens, context, mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_rewritten_maps_equal_row_copies_where_no_column_moves(unet: UNet2DConditionModel) -> None:
    eye, every = torch.eye(32).expand(2, -1, -1), torch.ones(2, 32, dtype=torch.bool)
    maps = CrossMaps(rows=ROWS, matrix=eye, taken=every)
    with controlled(unet, RowSharing(cross_attention=ROWS)):
        expected = call(unet, *inputs(4))
    with controlled(unet, RowSharing(cross_maps=maps)):
        torch.testing.assert_close(call(unet, *inputs(4)), expected, rtol=1e-4, atol=1e-5)


def test_maps_of_which_nothing_is_taken_are_the_target_s_own(unet: UNet2DConditionModel) -> None:
    nothing = torch.zeros(2, 32, dtype=torch.bool)
    maps = CrossMaps(rows=ROWS, matrix=torch.eye(32).expand(2, -1, -1), taken=nothing)
    expected = call(unet, *inputs(4))
    with controlled(unet, RowSharing(cross_maps=maps)):
        torch.testing.assert_close(call(unet, *inputs(4)), expected, rtol=1e-4, atol=1e-5)


def test_maps_are_recorded_before_or_after_their_factors(unet: UNet2DConditionModel) -> None:
    eye, every = torch.eye(32).expand(2, -1, -1), torch.ones(2, 32, dtype=torch.bool)
    factors = torch.ones(2, 32).index_fill(1, torch.tensor([3]), -2.0)
    maps = CrossMaps(rows=ROWS, matrix=eye, taken=every, scale=factors)

    def recorded(scaled: bool) -> Tensor:
        with controlled(unet, RowSharing(cross_maps=maps)) as hooks:
            hooks.recorder = MapRecorder(range(4), 64, scaled=scaled)
            call(unet, *inputs(4))
            assert hooks.recorder.total is not None
            return hooks.recorder.total

    before, after = recorded(False), recorded(True)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(after[[1, 3]], before[[1, 3]] * factors[:, None])
    assert before.min() >= 0


def test_a_row_is_not_given_two_maps() -> None:
    nothing = torch.zeros(2, 32, dtype=torch.bool)
    maps = CrossMaps(rows=ROWS, matrix=torch.eye(32).expand(2, -1, -1), taken=nothing)
    with pytest.raises(ValueError, match="shares with two others"):
        RowSharing(cross_attention=ROWS[:1], cross_maps=maps)


def test_a_replaced_processor_is_an_error(unet: UNet2DConditionModel) -> None:
    with controlled(unet, PAIR):
        site = unet.mid_block.attentions[0].transformer_blocks[0].attn1
        site.set_processor(AttnProcessor2_0())
        with pytest.raises(LostHook, match=r"mid_block\S*attn1 was replaced by AttnProcessor2_0"):
            call(unet, *inputs(4))


def test_fusing_projections_is_an_error(build_backbone: object) -> None:
    unet = build_backbone().unet  # type: ignore[operator]
    with controlled(unet, PAIR):
        unet.fuse_qkv_projections()
        with pytest.raises(LostHook, match="was replaced by"):
            call(unet, *inputs(4))


def test_sites_passed_over_are_an_error(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet.mid_block, "forward", lambda x, *_, **__: x)
    with controlled(unet, PAIR), pytest.raises(LostHook, match=r"of \d+ attention sites"):
        call(unet, *inputs(4))


def test_processors_return_even_after_an_error(unet: UNet2DConditionModel) -> None:
    before = unet.attn_processors
    with pytest.raises(KeyError), controlled(unet, PAIR):
        raise KeyError
    assert unet.attn_processors == before
    call(unet, *inputs(1))


def test_a_model_without_attention_is_an_error() -> None:
    with pytest.raises(NoSites, match="Linear has no attention sites"), controlled(nn.Linear(1, 1)):
        pass


def test_a_foreign_processor_is_not_discarded(unet: UNet2DConditionModel) -> None:
    site = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    former = site.processor
    site.set_processor(diffusers.models.attention_processor.SlicedAttnProcessor(1))
    try:
        with (
            pytest.raises(ValueError, match=r"attn2 carries SlicedAttnProcessor"),
            controlled(unet),
        ):
            pass
    finally:
        site.set_processor(former)


def test_control_is_not_nested(unet: UNet2DConditionModel) -> None:
    with controlled(unet), pytest.raises(ValueError, match="would discard"), controlled(unet):
        pass
    assert {type(p) for p in unet.attn_processors.values()} <= {AttnProcessor, AttnProcessor2_0}


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (((0, 1), (2, 1)), "a row shares with two others"),
        (((0, 1), (1, 2)), "is source and target"),
        (((0, -1),), "counted from 0"),
    ],
)
@pytest.mark.parametrize("kind", ["self_attention", "cross_attention"])
def test_row_roles_are_checked(kind: str, pairs: RowPairs, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RowSharing(**{kind: pairs})


def test_rows_beyond_the_batch_are_an_error(unet: UNet2DConditionModel) -> None:
    with controlled(unet, PAIR), pytest.raises(ValueError, match="but the batch has 2 rows"):
        call(unet, *inputs(2))
