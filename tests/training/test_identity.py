"""run.json: a folder goes on with its own run and with no other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from training.identity import FILE, changed, exported_step, identify, record


def options(**model: object) -> dict[str, object]:
    return {
        "seed_everything": 0,
        "model": {"base": "nowhere", "objective": {"dropout": 0.05}, **model},
        "data": {"shards": "nowhere", "batch_size": 4, "num_workers": 0},
        "trainer": {"precision": "32-true", "accumulate_grad_batches": 1, "max_steps": 10},
    }


def test_what_decides_the_weights_is_in_it_and_the_rest_is_not() -> None:
    plain = options()
    assert identify(plain)["model.objective.dropout"] == 0.05
    plain["data"]["num_workers"] = 3  # type: ignore[index]
    plain["trainer"]["max_steps"] = 20  # type: ignore[index]
    assert identify(plain) == identify(options())
    assert identify(options(ema_decay=0.5)) != identify(options())


def test_the_layout_counts_where_moments_cannot_follow_it() -> None:
    def laid_out(kind: str, channels_last: bool) -> Mapping[str, Any]:
        return identify(options(optimizer={"kind": kind}, speed={"channels_last": channels_last}))

    assert laid_out("adamw", True) == laid_out("adamw", False)
    assert laid_out("adamw_8bit", True) != laid_out("adamw_8bit", False)


def test_contents_of_base_and_shards_count_and_not_their_names(
    tmp_path: Path, own_shards: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "weights.safetensors").write_bytes(b"one")
    given = options(base=str(base))
    given["data"]["shards"] = str(own_shards)  # type: ignore[index]
    before = identify(given)
    base.rename(tmp_path / "moved")
    moved = options(base=str(tmp_path / "moved"))
    moved["data"]["shards"] = str(own_shards)  # type: ignore[index]
    assert identify(moved) == before
    (tmp_path / "moved" / "weights.safetensors").write_bytes(b"two")
    (own_shards / "index.parquet").write_bytes(b"other")
    record(tmp_path, before, "shapes/stable-diffusion")
    assert changed(tmp_path, identify(moved)) == ["data.shards", "model.base"]


def test_a_folder_without_a_run_holds_nothing_else(tmp_path: Path) -> None:
    assert changed(tmp_path, identify(options())) == []
    assert exported_step(tmp_path) == 0
    record(tmp_path, identify(options()), tmp_path, exported_step=7)
    assert exported_step(tmp_path) == 7
    assert changed(tmp_path, identify(options(seed=1))) == ["model.seed"]


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is not JSON"):
        exported_step(tmp_path)
