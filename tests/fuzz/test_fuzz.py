"""Whatever is read from outside is read, or told as an error: fifty fixed inputs of each kind."""

from pathlib import Path

import pytest

from data_gen.shards import ShardIndex
from data_gen.survey.sheet import sheet
from data_gen.survey.stats import survey
from data_gen.survey.verify import inspect
from inference.backbone import load_backbone
from inference.endpoints.budget import Ledger, Prices
from inference.endpoints.history import History
from inference.endpoints.journal import Journal
from tests.fuzz.ground import Ground
from tests.fuzz.kinds import kinds
from tests.fuzz.running import fuzz

COUNT = 50
NAMES = (
    "captions",
    "pairs",
    "indexes",
    "receipts",
    "journals",
    "models",
    "safetensors",
    "recipes",
    "command lines",
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground.make(tmp_path_factory.mktemp("ground"))


def test_what_is_not_damaged_is_read_without_a_word(ground: Ground, tmp_path: Path) -> None:
    root = ground.copy_of_data(tmp_path)
    assert inspect(root, swaps=False).faults == []
    sheet(root, tmp_path / "sheet.html", size=32)
    assert survey(root).stages["kept"] == {"recolour": 2}
    assert len(ShardIndex(root)) == 2
    load_backbone(ground.copy_of_model(tmp_path))
    with Journal(root / "instructions.jsonl") as journal:
        assert History(journal, Ledger(Prices(), None)).answer("r") is not None


@pytest.mark.parametrize("name", NAMES)
def test_no_input_from_outside_is_a_traceback(name: str, ground: Ground, tmp_path: Path) -> None:
    by_name = {kind.name: kind for kind in kinds(ground)}
    assert tuple(by_name) == NAMES
    assert fuzz(by_name[name], ground, COUNT, tmp_path).count >= COUNT
