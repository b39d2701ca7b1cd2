"""What is told beforehand is what a run then needs: its UNet's rows are counted."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from torch import nn

from data_gen import __main__, stages
from data_gen.estimate.forecast import forecast, stand_ins, work_of_all
from data_gen.estimate.report import report, request_lines
from data_gen.instructions.stage import endpoint_id, write_triplets
from data_gen.judging.config import Thresholds
from data_gen.recipe import PairKnobs, Recipe
from data_gen.records import Caption, EditTriplet, caption_to_json, triplet_to_json
from data_gen.rendering.config import RenderKnobs
from data_gen.shapes import draw_triplets
from data_gen.stages import make_pairs
from data_gen.text_stages import make_captions, make_instructions
from inference.backbone import Backbone, load_backbone
from inference.endpoints.failures import ServerError
from inference.endpoints.journal import Journal
from inference.files import write_lines
from inference.shapes.edits import EditType
from tests.provider import good

ROOT = Path(__file__).parents[3]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every call of the UNet that the pair stage loads."""
    found: list[int] = []

    def count(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(len(inputs[0]))

    def load(*args: Any, **kwargs: Any) -> Backbone:
        backbone = load_backbone(*args, **kwargs)
        backbone.unet.register_forward_pre_hook(count)
        return backbone

    monkeypatch.setattr(stages, "load_backbone", load)
    return found


def test_from_triplets_it_is_exact(
    recipe: Recipe, triplets: list[EditTriplet], rows: list[int]
) -> None:
    too_long = EditTriplet.of(
        caption="a red circle " * 9,
        instruction="make it blue",
        edited_caption="a blue circle",
        edit_type="recolour",
        inverse_instruction="make it red",
    )
    other = replace(triplets[0], edit_type="reshape")
    other = EditTriplet.of(**{k: v for k, v in vars(other).items() if k != "id"})
    lines = map(triplet_to_json, [*triplets, too_long, other])
    write_lines(recipe.output / "triplets.jsonl", lines)
    render = replace(
        recipe.pairs.render,
        branches=3,
        seeds_of={"reshape": 5},
        p_ranges={"reshape": (0.0, 0.3)},
        together_of={"reshape": 0.2},
    )
    # Everything is good, so that nothing is judged in the place of another.
    every = Thresholds(image_image=-1, text_source=-1, text_edited=-1, directional=-1)
    judged = replace(recipe.pairs.filter, thresholds=every, at_most={"surprise": 100.0})
    knobs = replace(recipe.pairs, render=render, filter=judged)
    recipe = replace(recipe, pairs=knobs)
    told = forecast(recipe)
    assert told.left.triplets == 11
    assert told.left.judging > 0
    first = replace(recipe, partition="0/2")
    told_of_first = forecast(first).left.rows
    make_pairs(first)
    assert sum(rows) == told_of_first
    assert forecast(recipe).left.rows == told.left.rows - told_of_first
    assert forecast(recipe).done.rows == told_of_first
    make_pairs(recipe)
    assert sum(rows) == told.left.rows
    assert forecast(recipe).left.rows == 0


KINDS = dict.fromkeys(get_args(EditType), 1.0)


@pytest.mark.parametrize(
    "render",
    [
        RenderKnobs(),
        RenderKnobs(
            steps=20, seeds=2, branches=2, p_range=(0.6, 0.95), p_ranges={"move": (0.1, 0.4)}
        ),
        RenderKnobs(steps=5, seeds=1, branches=8, seeds_of={"remove": 4}),
        RenderKnobs(steps=5, seeds=2, branches=3, together=0.5, together_of={"remove": 0.2}),
    ],
)
def test_from_captions_it_is_close(tmp_path: Path, render: RenderKnobs) -> None:
    triplets = draw_triplets(360, seed=5, kinds=get_args(EditType))
    captions = {triplet.caption: Caption.of(triplet.caption) for triplet in triplets}
    recipe = Recipe(output=tmp_path, pairs=PairKnobs(render=render))
    asked = stand_ins(list(captions.values()), recipe)
    told = work_of_all(asked, recipe.pairs) * (len(triplets) / len(asked))
    exact = work_of_all(triplets, recipe.pairs)
    assert told.rows == pytest.approx(exact.rows, rel=0.08)
    assert told.images == pytest.approx(exact.images, rel=0.08)


def test_very_many_triplets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    triplets = draw_triplets(300, seed=6)
    exact = work_of_all(triplets, PairKnobs())
    monkeypatch.setattr("data_gen.estimate.forecast.MOST_TREES", 400)
    sampled = work_of_all(triplets, PairKnobs())
    assert sampled.triplets == exact.triplets == 300
    assert sampled.rows != exact.rows
    assert sampled.rows == pytest.approx(exact.rows, rel=0.05)


def test_the_command_tells_before_and_after_the_text(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = PairKnobs(model=recipe.pairs.model, clip=recipe.pairs.clip, render=RenderKnobs(steps=4))
    recipe = replace(recipe, pairs=pairs)
    line = ["estimate", "--output", str(recipe.output), "--captions.count", "50"]
    line += ["--pairs.model", pairs.model, "--pairs.clip", pairs.clip]
    line += ["--pairs.render.steps", "4"]
    assert __main__.main([*line, "--measure", "true", "--rates", '{"H200": 0.5}']) == 0
    said = capsys.readouterr().out
    told = forecast(recipe).left.rows
    assert "requests:  none to the language model" in said
    assert "10 triplets to render (from triplets.jsonl, 0 of 1 units done)" in said
    assert f"UNet rows: {told:,.0f}" in said
    assert f"{told / 0.5 / 3600:,.2f} of one worker on H200" in said
    assert "on this machine, at" in said
    (recipe.output / "triplets.jsonl").unlink()
    assert __main__.main([*line, "--instructions.edits_per_caption", "2"]) == 0
    said = capsys.readouterr().out
    assert "requests:  100 to the language model, 0 are answered" in said
    assert "100 triplets to render (at most: there may be 50 captions" in said
    assert "hours:     unknown; --measure" in said
    assert "cost:" not in said  # our own server has no price
    priced = ["--instructions.base_url", "http://127.0.0.1:9/v1", "--instructions.model", "m"]
    assert __main__.main([*line, *priced]) == 0
    assert "cost:      unknown; instructions.prices say" in capsys.readouterr().out
    priced += ["--instructions.prices.input", "400", "--instructions.prices.output", "1600"]
    assert __main__.main([*line, *priced]) == 0
    said = capsys.readouterr().out
    tokens, cost = (next(x for x in said.splitlines() if x.startswith(w)) for w in ("tok", "cost"))
    into, out = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+(?= in| out)", tokens))
    about, most = (float(n.replace(",", "")) for n in re.findall(r"\$([\d,.]+\d)", cost))
    assert about == pytest.approx(400e-6 * into + 1600e-6 * out, rel=0.01, abs=0.01)
    assert most > about > 0
    assert list(recipe.output.iterdir()) == []
    with pytest.raises(SystemExit) as ended:
        __main__.main([*line[:3], "--rates", '{"H200": 0}'])
    assert ended.value.code == 2
    assert "above 0" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["auto", "tagged", "plain"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_while_a_run_asks_its_answers_are_counted(
    tmp_path: Path, provider: Any, knobs_for: Callable[..., Any], form: str, rounds: int
) -> None:
    captions = [Caption.of(f"a red circle number {number}") for number in range(12)]
    write_lines(tmp_path / "captions.jsonl", (json.dumps(vars(one)) for one in captions))
    # Some have no answer yet, and quotas turn from what the first round asks.
    provider.behave = lambda asked, nth: "503" if asked["caption"][-1] in "37" else "good"
    if form == "tagged":
        provider.say = lambda asked: "<none/>"
    else:
        provider.say = lambda asked: "{}" if asked["edit_type"] == "move" else good("a red circle")
    mix = {"recolour": 1.0, "move": 1.0, "add": 1.0}
    knobs = knobs_for(form=form, rounds=rounds, edit_types=mix, max_retries=0)
    journal = tmp_path / "instructions.jsonl"
    with pytest.raises(ServerError):
        write_triplets(captions, knobs, journal=journal, triplets=tmp_path / "elsewhere")
    entries = list(map(json.loads, journal.read_text().splitlines()))
    answers = [entry for entry in entries if "answer" in entry]
    left = len(captions) - len({entry["caption"] for entry in answers})
    assert left == 2
    recipe = Recipe(output=tmp_path, instructions=knobs)
    with Journal(journal):  # as the run has it
        said = next(request_lines(recipe))
    assert said == f"requests:  {left} to the language model, {len(answers)} are answered"
    # Of another model's answers none counts.
    other = replace(recipe, instructions=replace(knobs, model="large"))
    assert "12 to the language model, 0 are answered" in next(request_lines(other))


@pytest.mark.parametrize(
    "entry",
    [
        {"answer": "x"},
        {"request": "r", "answer": "x", "caption": ["a"], "edit_type": "move"},
        {"form": 3, "endpoint": "ours"},
        {"form": "json_schema"},
    ],
)
def test_a_journal_whose_lines_are_none_of_its_kind_is_named(
    tmp_path: Path, knobs_for: Callable[..., Any], entry: dict[str, Any]
) -> None:
    knobs = knobs_for(form="auto")
    if "endpoint" in entry:
        entry = entry | {"endpoint": endpoint_id(knobs)}
    write_lines(tmp_path / "captions.jsonl", [caption_to_json(Caption.of("a red circle"))])
    write_lines(tmp_path / "instructions.jsonl", map(json.dumps, [{"reserved": "r"}, entry]))
    recipe = Recipe(output=tmp_path, instructions=knobs)
    with pytest.raises(ValueError, match=r"instructions\.jsonl, line 2: no entry of a journal"):
        list(request_lines(recipe))


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("unet", {"sample_size": None}, "sample_size of the UNet is None; expected a whole"),
        ("unet", {"sample_size": "x"}, "sample_size of the UNet is 'x'"),
        ("unet", {"block_out_channels": "x"}, "unet cannot be loaded as UNet2DConditionModel"),
        ("vae", {"block_out_channels": None}, "vae cannot be loaded as AutoencoderKL"),
        ("text_encoder", {"vocab_size": "x"}, "text_encoder cannot be loaded"),
    ],
)
def test_a_model_that_does_not_say_its_size_is_one_sentence(
    recipe: Recipe, tmp_path: Path, part: str, change: dict[str, Any], said: str
) -> None:
    model = Path(shutil.copytree(recipe.pairs.model, tmp_path / "model"))
    config = model / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    recipe = replace(recipe, pairs=replace(recipe.pairs, model=str(model)))
    with pytest.raises(ValueError, match=said):
        list(report(recipe, {}, measure=False))


def test_what_is_done_says_how_fast_it_was(recipe: Recipe) -> None:
    make_pairs(replace(recipe, partition="0/5"))
    (said,) = (line for line in report(recipe, {}, measure=False) if line.startswith("hours"))
    assert "what made the units so far" in said
    receipt = json.loads((recipe.output / "receipts" / "00000.json").read_text())
    spent = receipt["seconds"]
    assert set(spent) == {"render", "score", "write", "total"}
    assert spent["render"] + spent["score"] + spent["write"] == pytest.approx(
        spent["total"], abs=0.003
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_before_a_shapes_run_it_is_within_15_percent(
    tmp_path: Path, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shapes recipe on 24 captions, told before there is anything."""
    monkeypatch.chdir(ROOT)
    seen: list[Recipe] = []
    monkeypatch.setattr(__main__, "make_captions", seen.append)
    recipe_file = str(ROOT / "data_gen/recipes/shapes.yaml")
    line = ["--config", recipe_file, "--output", str(tmp_path), "--captions.count", "24"]
    assert __main__.main(["captions", *line]) == 0
    (recipe,) = seen
    told = forecast(recipe).left.rows
    make_captions(recipe)
    make_instructions(recipe)
    make_pairs(recipe)
    print(f"told {told:.0f}, needed {sum(rows)}")
    assert told == pytest.approx(sum(rows), rel=0.15)
