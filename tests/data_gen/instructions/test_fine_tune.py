"""Fine-tuning teaches the very format that is asked for later, and its job survives a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_gen import __main__
from data_gen.instructions.examples import Example
from data_gen.instructions.fine_tune import run_fine_tuning, write_training_file
from data_gen.instructions.knobs import FineTuneKnobs, InstructionKnobs
from data_gen.instructions.prompts import Question
from data_gen.instructions.stage import plain_template
from inference.endpoints.failures import ServerError

EDITS = [
    {"input": f"a cat {n}", "edit": f"make it a dog {n}", "output": f"a dog {n}"} for n in range(12)
]


@pytest.fixture
def line(tmp_path: Path, provider: Any) -> list[str]:
    """The command."""
    path = tmp_path / "human.jsonl"
    path.write_text("".join(f"{json.dumps(edit)}\n" for edit in [*EDITS, EDITS[0]]))
    options = {
        "triplets": path,
        "output": tmp_path / "out",
        "model": "small",
        "base_url": provider.base_url,
        "poll_s": 0.01,
    }
    return ["fine-tune", *(f"--{name}={value}" for name, value in options.items())]


def test_the_command_prints_a_recipe_that_asks_as_it_was_taught(
    tmp_path: Path, provider: Any, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(line) == 0
    said = capsys.readouterr().out
    assert "left out {'said before': 1}" in said
    recipe = yaml.safe_load(said[said.index("instructions:") :])
    knobs = InstructionKnobs(**recipe["instructions"])
    assert knobs.model == "ft:small:emend"
    (file,) = provider.files.values()
    assert file == (tmp_path / "out/training.jsonl").read_bytes()
    template = plain_template(knobs)
    for edit, row in zip(EDITS, map(json.loads, file.splitlines()), strict=True):
        asked = Question(caption=edit["input"], edit_type="any")
        *chat, answer = row["messages"]
        assert chat == template.messages(asked)
        assert answer["role"] == "assistant"
        triplet = template.parse(answer["content"], asked)
        assert (triplet.instruction, triplet.edited_caption) == (edit["edit"], edit["output"])
    (job,) = provider.jobs.values()
    assert job["asked"]["method"]["supervised"]["hyperparameters"] == {"n_epochs": 1}


def test_the_papers_recipe_asks_as_fine_tuning_taught(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(line) == 0
    said = capsys.readouterr().out
    taught = yaml.safe_load(said[said.index("instructions:") :])["instructions"]
    path = Path(__main__.__file__).with_name("recipes") / "paper-sd15.yaml"
    shipped = yaml.safe_load(path.read_text())["instructions"]
    for name in ("form", "inverse"):
        assert shipped[name] == taught[name]
    assert shipped["edit_types"].keys() == taught["edit_types"].keys()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_killed_command_goes_on_with_its_job(
    tmp_path: Path, provider: Any, line: list[str], lost: int
) -> None:
    assert __main__.main(line) == 0
    path = tmp_path / "out/fine-tune.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) - lost]))
    assert __main__.main(line) == 0
    assert len(provider.jobs) == (2 if lost == 2 else 1)  # without its file it cannot be known


def test_a_job_that_fails_says_why_and_is_begun_anew(
    provider: Any, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    provider.batch_end = "failed"
    assert __main__.main(line) == 1
    assert "the fine-tuning job ftjob-0 is failed" in capsys.readouterr().err
    provider.batch_end = "completed"
    assert __main__.main(line) == 0
    assert len(provider.jobs) == 2


@pytest.mark.parametrize("at", ["files", "fine_tuning/jobs", "fine_tuning/jobs/ftjob-0"])
def test_an_error_within_http_200_is_told_and_not_waited_on(
    provider: Any,
    line: list[str],
    at: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    route = provider.route

    def failing(method: str, path: str, content: bytes) -> Any:
        if path == f"/v1/{at}":
            return 200, {}, b'{"error": {"message": "no credit left"}}'
        return route(method, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(provider, "route", failing)
        assert __main__.main(line) == 1
    assert "failed: HTTP 200 with no credit left" in capsys.readouterr().err
    assert __main__.main(line) == 0


def test_edits_that_the_stage_would_reject_are_not_taught(tmp_path: Path) -> None:
    examples = [
        Example(caption=e["input"], instruction=e["edit"], edited_caption=e["output"])
        for e in EDITS
    ]
    same = Example(caption="a cat", instruction="make it a cat", edited_caption="A cat")
    file = write_training_file([*examples, same], tmp_path / "training.jsonl")
    assert file.edit_types == {"any": 12}
    with pytest.raises(ValueError, match=r"10 edits at least, got 9.*equals the caption"):
        write_training_file([*examples[:9], same], tmp_path / "training.jsonl")


def test_an_inverse_for_all_or_for_none(tmp_path: Path) -> None:
    fields = {"instruction": "i", "edited_caption": "e"}
    some = [Example(caption=str(n), **fields) for n in range(10)]
    more = [Example(caption=str(n), inverse_instruction="back", **fields) for n in range(10)]
    with pytest.raises(ValueError, match="10 of 20 edits have an inverse instruction"):
        write_training_file([*some, *more], tmp_path / "training.jsonl")
    assert write_training_file(more, tmp_path / "training.jsonl").inverse


def test_an_endpoint_without_fine_tuning_is_named(tmp_path: Path, provider: Any, line: Any) -> None:
    options = dict(option[2:].split("=", 1) for option in line[1:])
    knobs = FineTuneKnobs(
        triplets=Path(options["triplets"]),
        output=tmp_path / "out",
        model="small",
        base_url=f"{provider.base_url}/other",
    )
    with pytest.raises(ServerError, match="fine-tuning at .* failed"):
        run_fine_tuning(knobs)
