"""The run that predicts: the named one, the best one, or the newest of a production level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phase2hpc.config.run_config import build_config
from phase2hpc.errors import InputError
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.model_selection import describe_model, runs_to_predict_with
from phase2hpc.runs.registry import exported_members
from phase2hpc.runs.run_directory import RunDirectory, create_run, family_folder
from phase2hpc.utils.package_files import DEFAULT_MODEL, pretrained_models

SHIPPED = exported_members(pretrained_models()[0])


def make_run(models: Path, name: str, level: str = "std", **manifest: Any) -> RunDirectory:
    """Runs are as old as the order in which they are made."""
    run = create_run(models, family_folder("cgcnn", level), name)
    values = {"state": "finished", "store_hash": "a", "properties": ["band_gap"], **manifest}
    run.write_manifest(
        Manifest(run_id=name, algorithm="cgcnn", level=level, epochs=1, seed=0, **values)
    )
    run.write_config(build_config("cgcnn", level, ["band_gap"]))
    return run


def test_named_runs(tmp_path: Path) -> None:
    one, two = make_run(tmp_path, "one", state="stopped"), make_run(tmp_path, "two", "lite")
    assert runs_to_predict_with(tmp_path, ["two", " one"]) == [two, one]
    with pytest.raises(InputError, match="--run: give"):
        runs_to_predict_with(tmp_path, ["", ""])
    with pytest.raises(InputError, match="--run one,one: the same run twice"):
        runs_to_predict_with(tmp_path, ["one", "one"])
    older = one.path / "best_3.pt"
    older.touch()
    with pytest.raises(InputError, match="a file named best.pt"):
        runs_to_predict_with(tmp_path, [str(older)])
    one.best.touch()
    assert runs_to_predict_with(tmp_path, [str(one.best)]) == [one]


@pytest.mark.parametrize("level", ["std", "pro", "max"])
def test_the_default_is_the_newest_finished_production_run(level: str, tmp_path: Path) -> None:
    make_run(tmp_path, "old")
    run = make_run(tmp_path, "new", level)
    make_run(tmp_path, "smoke", "smoke")
    make_run(tmp_path, "lite", "lite")
    make_run(tmp_path, "unfinished", state="running")
    assert runs_to_predict_with(tmp_path, None) == [run]


def test_without_one_the_shipped_model_predicts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_to_predict_with(tmp_path, None) == SHIPPED
    make_run(tmp_path, "mine", "smoke")
    caplog.clear()
    assert runs_to_predict_with(tmp_path, None) == SHIPPED
    (message,) = caplog.messages
    assert "--run mine for the newest one" in message and DEFAULT_MODEL in message
    monkeypatch.setattr("phase2hpc.runs.model_selection.pretrained_models", list)
    with pytest.raises(InputError, match="no finished run at level std, pro or max in .*mine"):
        runs_to_predict_with(tmp_path, None)


def test_best_compares_runs_on_the_same_store_and_properties(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--run best: no finished run"):
        runs_to_predict_with(tmp_path, ["best"])
    make_run(tmp_path, "other_store", best_score=0.1, store_hash="b")
    make_run(tmp_path, "other_properties", best_score=0.1, properties=["ehull"])
    make_run(tmp_path, "unfinished", best_score=0.1, state="stopped")
    best = make_run(tmp_path, "best_one", "pro", best_score=0.5)
    make_run(tmp_path, "newest", best_score=0.7)
    make_run(tmp_path, "lite", "lite", best_score=0.9, store_hash="c")
    assert runs_to_predict_with(tmp_path, ["best"]) == [best]


def test_description(tmp_path: Path) -> None:
    assert describe_model(SHIPPED).startswith(
        "e3nn pro, the mean of ensemble e3nn-ensemble/e3nn of 2 runs (12,576 training crystals; "
        "test MAE formation_energy 0.0424 eV/atom, band_gap 0.135 eV, bulk_modulus 11.1 GPa, "
    )
    one, two = make_run(tmp_path, "one", training_crystals=1000), make_run(tmp_path, "two", "pro")
    assert describe_model([one]) == "cgcnn std, multitask_cgcnn_std/one (1,000 training crystals)"
    one.metrics_json.write_text('{"val": {}, "test": {"band_gap": {"mae": 0.2}}}')
    two.metrics_json.write_text('{"val": {}, "test": {"band_gap": {"mae": 0.4}}}')
    assert describe_model([one, two]) == (
        "cgcnn std and cgcnn pro, the mean of 2 runs, multitask_cgcnn_std/one, "
        "multitask_cgcnn_pro/two (mean test MAE band_gap 0.300 eV)"
    )
    bare = RunDirectory(tmp_path / "bare")
    assert describe_model([bare]) == f"{tmp_path.name}/bare"
