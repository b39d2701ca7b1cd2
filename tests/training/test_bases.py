"""What is trained is the base until it has learned something, and learns what the paper says."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from torch import Tensor
from torch.func import functional_call
from torch.nn import Parameter

from inference.backbone import Backbone, load_backbone
from inference.noise import keyed_noise
from inference.samplers import SAMPLERS
from inference.settings import Settings
from training.config import Lora, Objective
from training.data.data_module import PairData
from training.data.samples import SCORES, Batch, posterior_noise
from training.module import EditorTraining
from training.noise_schedule import cumulative_alphas, trained_scheduler
from training.objective import draw, loss_weights
from training.unet import widen

KINDS = ("1", "2", "xl")


@pytest.fixture(scope="module")
def folders(build_family, save_folder, tmp_path_factory) -> dict[str, Path]:
    """Bases of Stable Diffusion 1's, 2's and XL's architecture."""
    root = tmp_path_factory.mktemp("bases")
    for kind in KINDS:
        save_folder(build_family(kind, channels=4), root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_it_is_the_base(kind: str, lora: Lora | None, folders: dict[str, Path]) -> None:
    base, module = load_backbone(folders[kind]), EditorTraining(folders[kind], lora=lora)
    x, source = keyed_noise(kind, shape=(2, 2, 4, 8, 8))
    text, timesteps = base.encode_text(["a cat", ""]), torch.tensor([3, 900])
    both = torch.cat([x, source], dim=1)
    with torch.no_grad():
        wanted = base.unet_output(x, timesteps, text)
        for unet in (module.unet.eval(), module.average, module.editor().unet):
            assert torch.equal(replace(base, unet=unet).unet_output(both, timesteps, text), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_and_the_input_layer_learn_and_nothing_else_is_kept(
    kind: str, folders: dict[str, Path]
) -> None:
    module = EditorTraining(folders[kind], lora=Lora(rank=2, targets=("to_k",)))
    trained = {name: p for name, p in module.unet.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora" not in n} == {"conv_in.weight", "conv_in.bias"}
    kept = {name.partition(".")[2] for name in module.state_dict()}
    assert kept == trained.keys()
    assert len(module.state_dict()) == 2 * len(trained)
    average = dict(module.average.named_parameters())
    for name, parameter in module.unet.named_parameters():
        assert (average[name] is parameter) == (name not in trained)


def reference(batch: Batch, base: Backbone, unet: object, objective: Objective) -> Tensor:
    """The loss of a batch, written from the papers, sample by sample, in float64.

    InstructPix2Pix, equation 2 and section 3.2.1; v: Salimans & Ho 2022, appendix D; min-SNR: Hang
    et al. 2023, section 3.4; size conditions: Podell et al. 2023, section 2.2; scores: Zhang et al.
    2024 (HIVE).
    """
    known = base.scheduler.config
    roots = [known.beta_start**0.5, known.beta_end**0.5]
    alpha_bars = (1 - torch.linspace(*roots, 1000, dtype=torch.float32) ** 2).cumprod(0).double()
    losses = []
    for i in range(len(batch.positions)):
        draws = draw(
            seed=7,
            epochs=[batch.epochs[i]],
            positions=[batch.positions[i]],
            shape=(4, 8, 8),
            timesteps=1000,
            knobs=objective,
        )
        t, noise, a = draws.timesteps, draws.noise.double(), alpha_bars[draws.timesteps]
        pictures = [(side[i : i + 1] / 127.5 - 1).double() for side in (batch.edited, batch.source)]
        target, condition = (base.vae.encode(picture).latent_dist for picture in pictures)
        own = posterior_noise(7, batch.epochs[i], batch.positions[i], shape=(4, 8, 8)).double()
        z = (target.mean + target.std * own) * base.vae.config.scaling_factor
        text = base.encode_text([batch.instructions[i] if draws.keep_text else ""])
        condition = condition.mean * base.settings.image_latent_scale * draws.keep_image
        z_t = a.sqrt() * z + (1 - a).sqrt() * noise
        added = {"text_embeds": text.pooled, "time_ids": batch.sizes[i : i + 1].double()}
        output = unet(  # type: ignore[operator]
            torch.cat([z_t, condition], dim=1),
            t,
            encoder_hidden_states=text.states,
            added_cond_kwargs=added if text.pooled is not None else None,
        ).sample
        predicts_v = known.prediction_type == "v_prediction"
        wanted = a.sqrt() * noise - (1 - a).sqrt() * z if predicts_v else noise
        snr, weight = a / (1 - a), torch.ones(1).double()
        if objective.weighting == "min_snr":
            gamma = torch.tensor(objective.min_snr_gamma).double()
            weight = torch.minimum(snr, gamma) / (snr + 1 if predicts_v else snr)
        losses.append(weight * (output - wanted).square().mean())
    rewards = (batch.score("directional") / objective.score_beta).exp()
    each = rewards / rewards.mean() if objective.score else 1
    return (each * torch.cat(losses)).mean()


def in_double(
    base: Path, monkeypatch: pytest.MonkeyPatch, **knobs: Any
) -> tuple[EditorTraining, Backbone]:
    """A module in float64 that can make a step, and the model it begins with."""
    settings = Settings(image_latent_scale=0.5)
    module = EditorTraining(base, settings=settings, seed=7, **knobs)
    monkeypatch.setattr(EditorTraining, "log", lambda *_, **__: None)
    data = PairData(Path("nowhere"))
    module.trainer = SimpleNamespace(datamodule=data, precision="64-true")  # type: ignore[assignment]
    parent = replace(load_backbone(base), settings=settings)
    for part in (*module.backbone.modules.values(), module, *parent.modules.values()):
        torch.nn.Module.double(part)
    torch.nn.init.normal_(module.unet.conv_in.weight, std=0.2)  # so that the condition counts
    return module, parent


def some_batch() -> Batch:
    pictures = (keyed_noise("pictures", shape=(2, 6, 3, 16, 16)) * 60 + 128).clamp(0, 255)
    return Batch(
        positions=list(range(40, 46)),
        epochs=[0, 0, 0, 1, 1, 1],
        instructions=[f"make it {word}" for word in ("red", "a cat", "old", "new", "big", "x")],
        edited=pictures[0].to(torch.uint8),
        source=pictures[1].to(torch.uint8),
        sizes=torch.tensor([[40 + i, 50, i, 2, 16, 16] for i in range(6)]),
        scores=torch.rand(6, len(SCORES), dtype=torch.float64),
        passed_over=[],
    )


def require_equal_steps(found: tuple[Tensor, list[Parameter]], expected: Tensor) -> None:
    """Losses and the gradients of what is trained, to 1e-10."""
    loss, trained = found
    gradients = [torch.autograd.grad(one, trained) for one in (loss, expected)]
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for got, wanted in zip(*gradients, strict=True):
        assert wanted.any()
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "knobs",
    [{}, {"weighting": "min_snr", "offset_noise": 0.1, "score": "directional", "score_beta": 0.3}],
    ids=["plain", "weighted"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_equals_the_paper_s(
    kind: str, knobs: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(dropout=0.25, **knobs)
    module, base = in_double(folders[kind], monkeypatch, objective=objective)
    batch = some_batch()
    even = torch.full((6,), 1 / 6, dtype=torch.float64)
    scores = batch.score("directional"), even
    monkeypatch.setattr(PairData, "scores", lambda _, name: scores)
    module.on_fit_start()
    draws = draw(
        seed=7,
        epochs=batch.epochs,
        positions=batch.positions,
        shape=(4, 8, 8),
        timesteps=1000,
        knobs=objective,
    )
    lost = {(bool(text), bool(image)) for text, image in zip(*draws[2:], strict=True)}
    assert len(lost) >= 3  # or the drops would go untested
    loss = module.training_step(batch, 0)
    expected = reference(batch, base, module.unet, objective)
    require_equal_steps((loss, list(module.unet.parameters())), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_as_their_paper_says(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """W + alpha / rank B A (Hu et al. 2022, section 4.1), in the place of every W that has them."""
    objective, lora = Objective(dropout=0.25), Lora(rank=2, alpha=6)
    module, base = in_double(folders[kind], monkeypatch, objective=objective, lora=lora)
    trained = {name: p for name, p in module.unet.named_parameters() if p.requires_grad}
    for name, p in trained.items():
        if ".lora_B." in name:
            torch.nn.init.normal_(p, std=0.1)  # it begins at 0, where A learns nothing
    plain = widen(base.unet)
    weights = dict(plain.named_parameters())
    weights |= {name: p for name, p in trained.items() if name.startswith("conv_in.")}
    for name, a in trained.items():
        layer, is_first, _ = name.partition(".lora_A.")
        if is_first:
            b = trained[name.replace(".lora_A.", ".lora_B.")]
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + 6 / 2 * b @ a
    module.on_fit_start()
    batch = some_batch()
    loss = module.training_step(batch, 0)
    expected = reference(
        batch, base, lambda *a, **k: functional_call(plain, weights, a, k), objective
    )
    require_equal_steps((loss, list(trained.values())), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_instruction_is_the_null_text_of_its_base(
    kind: str, folders: dict[str, Path]
) -> None:
    """Of XL nothing at all, summary included; of the others what their encoder says of ""."""
    module = EditorTraining(folders[kind])
    draws = draw(
        seed=0, epochs=[0], positions=[0], shape=(1, 1, 1), timesteps=1000, knobs=Objective()
    )
    draws = draws._replace(keep_text=torch.tensor([True, False]))
    text = module._encoded(["a cat", "a cat"], draws)
    if kind == "xl":
        assert text.states[0].any()
        assert text.pooled[0].any()
        assert not text.states[1].any()
        assert not text.pooled[1].any()
        return
    base = load_backbone(folders[kind])
    tokens = base.tokenizer("", padding="max_length", max_length=32, return_tensors="pt")
    null = base.text_encoder(tokens.input_ids).last_hidden_state[0]
    torch.testing.assert_close(text.states[1], null)
    assert not torch.equal(text.states[0], null)


def test_zero_terminal_snr_is_recorded_with_the_sampler_that_belongs_to_it() -> None:
    parent = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    to_v = Objective(prediction_type="v_prediction", change_prediction_type=True)
    scheduler = trained_scheduler(parent, replace(to_v, zero_terminal_snr=True))
    config = scheduler.config
    assert isinstance(scheduler, DDIMScheduler)
    assert (config.rescale_betas_zero_snr, config.timestep_spacing) == (True, "trailing")
    assert (config.prediction_type, config.clip_sample) == ("v_prediction", False)
    alphas = cumulative_alphas(scheduler)
    assert alphas[-1] == 0
    assert alphas[0] == pytest.approx(1 - 0.00085)  # Lin et al. 2024: the first stays
    for make in SAMPLERS.values():
        sampler = make(scheduler, 7)
        assert sampler.timesteps[0] == 999
        assert sampler.signal[0] / sampler.level[0] < 1e-3
    again = trained_scheduler(scheduler, Objective())
    assert cumulative_alphas(again).equal(alphas)
    plain = trained_scheduler(scheduler, Objective(zero_terminal_snr=False))
    torch.testing.assert_close(cumulative_alphas(plain), parent.alphas_cumprod)


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler])
def test_epsilon_cannot_be_predicted_of_pure_noise(kind: type) -> None:
    with pytest.raises(ValueError, match="prediction_type is epsilon, expected v_prediction"):
        trained_scheduler(kind(), Objective(zero_terminal_snr=True))


@pytest.mark.parametrize("weighting", ["min_snr", "clamped_inverse_alpha"])
@pytest.mark.parametrize("of_the_base", [False, True])
def test_pure_noise_is_never_weighted_away(weighting: Any, of_the_base: bool) -> None:
    parent = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=of_the_base)
    knobs = Objective(zero_terminal_snr=None if of_the_base else True)
    kept = cumulative_alphas(trained_scheduler(parent, knobs))
    assert loss_weights(kept, "v_prediction", knobs)[-1] == 1
    with pytest.raises(ValueError, match=f"weighting is {weighting}, expected none"):
        trained_scheduler(parent, replace(knobs, weighting=weighting))


@pytest.mark.parametrize(
    ("asked", "own"), [("epsilon", "v_prediction"), ("v_prediction", "epsilon")]
)
def test_another_prediction_than_the_base_s_must_be_meant(asked: Any, own: str) -> None:
    parent, knobs = DDIMScheduler(prediction_type=own), Objective(prediction_type=asked)
    said = f"prediction_type is {asked} and the base model predicts {own}, expected the same"
    with pytest.raises(ValueError, match=said):
        trained_scheduler(parent, knobs)
    meant = trained_scheduler(parent, replace(knobs, change_prediction_type=True))
    assert meant.config.prediction_type == asked
    kept = trained_scheduler(parent, Objective(prediction_type=own))  # type: ignore[arg-type]
    assert kept.config.prediction_type == own
