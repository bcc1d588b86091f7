"""Paired differences, and settings that differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phase2hpc.analysis.comparison import compare
from phase2hpc.analysis.run_results import results_of_run
from phase2hpc.inference.labelled_predictions import read_labelled_predictions
from phase2hpc.runs.run_directory import RunDirectory

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def worse(trained: dict[str, RunDirectory], tmp_path: Path) -> RunDirectory:
    """The cgcnn run with another learning rate, and larger errors on all but one test crystal."""
    source = trained["cgcnn"]
    run = RunDirectory(tmp_path / source.family / "run_worse")
    shutil.copytree(source.path, run.path)
    config = run.read_config()
    run.write_config(
        config.model_copy(update={"training": config.training.model_copy(update={"lr": 0.5})})
    )
    table = read_labelled_predictions(run.predictions_test)
    errors = {name: table.error(name) for name in table.properties}
    far = {name: table.target[name] + 2 * error for name, error in errors.items()}
    replace(table, ids=["other", *table.ids[1:]], prediction=far).write(run.predictions_test)
    metrics = json.loads(run.metrics_json.read_text())
    for row in metrics["test"].values():
        row["mae"] = row["mae"] and 2 * row["mae"]
    run.metrics_json.write_text(json.dumps(metrics))
    return run


def test_paired_differences(
    trained: dict[str, RunDirectory], worse: RunDirectory, command: Command
) -> None:
    best = trained["cgcnn"]
    found = compare([results_of_run(worse), results_of_run(best)])
    assert [group.name for group in found.groups] == ["cgcnn", "worse"]
    assert list(found.settings) == ["lr"] and found.settings["lr"][1] == 0.5
    table = read_labelled_predictions(best.predictions_test)
    by_name = {difference.name: difference for difference in found.differences}
    for name in table.properties:
        # Of the common crystals: the first has another name.
        error = np.abs(table.error(name))[1:]
        error = error[np.isfinite(error)]
        if not len(error):
            continue
        difference = by_name[name]
        assert difference.n == len(error)
        assert difference.mean == pytest.approx(error.mean(), rel=1e-4)
        assert difference.se == pytest.approx(error.std(ddof=1) / np.sqrt(len(error)), rel=1e-4)
    # A bootstrap of the crystals has the same standard error.
    error = np.abs(table.error("band_gap"))[1:]
    error = error[np.isfinite(error)]
    rng = np.random.default_rng(0)
    means = [rng.choice(error, len(error)).mean() for _ in range(4000)]
    assert by_name["band_gap"].se == pytest.approx(np.std(means), rel=0.1)
    code, out, _ = command("runs", "compare", worse.path, best.path)
    assert code == 0 and "B - A" in out and "positive: A has the lower error" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = command("runs", "compare", worse.path, best.path, "--json")
    assert code == 0
    record = json.loads(out)
    assert [group["name"] for group in record["groups"]] == ["cgcnn", "worse"]
    assert record["settings"]["lr"][1] == 0.5 and len(record["differences"]) == len(by_name)


def test_without_predictions_there_are_no_differences(
    trained: dict[str, RunDirectory], worse: RunDirectory
) -> None:
    worse.predictions_test.unlink()
    found = compare([results_of_run(worse), results_of_run(trained["cgcnn"])])
    assert not found.differences and "no paired differences" in found.text()
    assert found.groups[0].name == "cgcnn"
