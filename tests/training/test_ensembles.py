"""``train --seeds``: an ensemble is trained, resumed, and then one object in every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from same_run import assert_same_run

from phase2hpc.analysis.comparison import compare, runs_to_compare
from phase2hpc.errors import InputError, StoppedEarly
from phase2hpc.inference.labelled_predictions import read_labelled_predictions
from phase2hpc.inference.predictor import load_predictor
from phase2hpc.runs.ensemble import Ensemble, find_ensemble
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.ensemble_results import write_ensemble_results
from phase2hpc.training.request import TrainRequest
from phase2hpc.training.runner import train
from phase2hpc.training.trainer import Trainer

Command = Callable[..., tuple[int, str, str]]
SEEDS = (0, 3)


@pytest.fixture(scope="module")
def ensemble(
    train_tiny: Callable[..., RunDirectory], tmp_path_factory: pytest.TempPathFactory
) -> Ensemble:
    models = tmp_path_factory.mktemp("models")
    results = train_tiny(models, run_id="e", seeds=SEEDS)
    found = find_ensemble(models, "e")
    assert found is not None and found.results == results
    return found


def models_of(ensemble: Ensemble) -> Path:
    return ensemble.results.path.parents[1]


def test_members_and_results(ensemble: Ensemble) -> None:
    assert [run.id for run in ensemble.members] == ["e-s0", "e-s3"]
    assert [run.read_config().seed for run in ensemble.members] == list(SEEDS)
    results = ensemble.results
    metrics = json.loads(results.metrics_json.read_text())
    for split in ("val", "test"):
        tables = [read_labelled_predictions(run.predictions(split)) for run in ensemble.members]
        joined = read_labelled_predictions(results.predictions(split))
        for name in joined.properties:
            mean = np.mean([table.prediction[name] for table in tables], axis=0)
            np.testing.assert_allclose(joined.prediction[name], mean, rtol=1e-5)
            error = np.abs(joined.error(name))
            found = metrics[split][name]
            assert found["mae"] == pytest.approx(np.nanmean(error), rel=1e-5)
            assert found["n"] == np.isfinite(error).sum() and found["mad"] > 0
            singles = [np.nanmean(np.abs(table.error(name))) for table in tables]
            assert found["mae"] <= max(singles)
            assert (joined.sigma_of(name) >= 0).all()


def test_its_id_works_everywhere(
    ensemble: Ensemble, tiny: Any, command: Command, tmp_path: Path
) -> None:
    where = ("--models-dir", models_of(ensemble))
    source = tmp_path / "test.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in tiny.of_split("test")))
    output = tmp_path / "p.json"
    code, _, err = command("predict", source, "--run", "e", "--output", output, *where)
    assert code == 0 and "ensemble multitask_cgcnn_lite/e of 2 runs" in err
    rows = json.loads(output.read_text())
    table = read_labelled_predictions(ensemble.results.predictions_test)
    for name in table.properties:
        values = [row[name] for row in rows]
        np.testing.assert_allclose(values, table.prediction[name], rtol=1e-4, atol=1e-4)
        # Where validation has too few labels there is none, here and there.
        sigmas = [np.nan if row[f"{name}_sigma"] is None else row[f"{name}_sigma"] for row in rows]
        np.testing.assert_allclose(sigmas, table.sigma_of(name), rtol=1e-3, atol=1e-4)
        highs = [np.nan if row[f"{name}_high"] is None else row[f"{name}_high"] for row in rows]
        np.testing.assert_allclose(highs, table.interval_of(name)[1], rtol=1e-3, atol=1e-4)
    metrics = json.loads(ensemble.results.metrics_json.read_text())["test"]
    code, out, _ = command("evaluate", "e", source, "--json", *where)
    assert code == 0
    found = json.loads(out)["metrics"]
    assert found["band_gap"]["mae"] == pytest.approx(metrics["band_gap"]["mae"], rel=1e-4)
    code, out, _ = command("runs", "show", "e", *where)
    assert code == 0 and "e, 2 runs" in out and "0; 3" in out
    code, out, _ = command("runs", "show", "e", "--handoff", *where)
    assert code == 0 and out.startswith("# Hand-off: ensemble e\n")
    code, out, _ = command("runs", "show", "e", "--json", *where)
    assert code == 0 and json.loads(out)["metrics"]["test"] == metrics
    code, out, _ = command("report", "e", *where)
    assert code == 0 and ensemble.results.report.exists()
    code, out, _ = command("runs", "list", *where)
    (line,) = (line.split() for line in out.splitlines() if line.startswith("e "))
    assert line[:5] == ["e", "cgcnn", "lite", "2", "finished"]
    assert command("export", "e", tmp_path / "given", *where)[0] == 0
    code, _, err = command("predict", source, "--run", tmp_path / "given", "--output", output)
    assert code == 0, err
    assert json.loads(output.read_text())[0]["band_gap"] == pytest.approx(rows[0]["band_gap"])


def test_compared_as_one_with_its_members(ensemble: Ensemble) -> None:
    found = compare(runs_to_compare(models_of(ensemble), ["e", "e-s0", "e-s3"]))
    assert sorted(group.name for group in found.groups) == ["cgcnn lite, 2 runs", "e"]
    assert found.settings == {"members of the ensemble": [2, 1]} or found.settings == {
        "members of the ensemble": [1, 2]
    }
    # The mean of absolute errors is not below the absolute error of the mean.
    (one,) = (group for group in found.groups if group.name == "e")
    assert found.groups[0] is one
    assert all(difference.mean >= -1e-6 for difference in found.differences)


def test_stopped_in_its_second_run_and_resumed(
    train_tiny: Callable[..., RunDirectory],
    ensemble: Ensemble,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    steps, step = 0, Trainer.optimise

    def stop_in_the_second(self: Trainer, *arguments: Any) -> bool:
        nonlocal steps
        steps += self.config.seed == SEEDS[1]
        done = step(self, *arguments)
        if steps == 7:
            raise StoppedEarly("by the test")
        return done

    monkeypatch.setattr(Trainer, "optimise", stop_in_the_second)
    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path, run_id="e", seeds=SEEDS, checkpoint_steps=3)
    monkeypatch.undo()
    found = find_ensemble(tmp_path, "e")
    assert found is not None and found.unfinished() == ["e-s3"]
    code, _, err = command("predict", "x.cif", "--run", "e", "--models-dir", tmp_path)
    assert code == 2 and "not all of its runs are finished" in err
    with pytest.raises(InputError, match="exists already"):
        train_tiny(tmp_path, run_id="e", seeds=SEEDS)
    train(TrainRequest("cgcnn", "lite", tmp_path, resume=True))
    for mine, other in zip(found.members, ensemble.members, strict=True):
        assert_same_run(mine, other)
    for name in ("metrics.json", "predictions_test.csv"):
        mine_text, other_text = ((e.results.path / name).read_text() for e in (found, ensemble))
        assert mine_text == other_text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0-1", "--seed", "3"], "--seed and --seeds"),
        (["--seeds", "1,1"], "the same seed twice"),
        (["--seeds", "0-1", "--resume"], "an ensemble has its seeds"),
    ],
)
def test_what_cannot_be(arguments: list[str], words: str, command: Command, tmp_path: Path) -> None:
    code, _, err = command("train", "--level", "lite", "--models-dir", tmp_path, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_invalid_request_leaves_no_directory(train_tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--max-samples|batch_size|label"):
        train_tiny(tmp_path, run_id="e", seeds=SEEDS, properties="all9", max_samples=1)
    assert not list(tmp_path.glob("*/*"))
    assert train_tiny(tmp_path, run_id="e", seeds=(0,), epochs=1).metrics_json.exists()


def test_members_without_calibration_have_one_sigma_everywhere(
    ensemble: Ensemble, tiny: Any, command: Command, tmp_path: Path, caplog: Any
) -> None:
    """Their spread, in the ensemble's own table as by ``predict``."""
    models = tmp_path / "models"
    shutil.copytree(models_of(ensemble), models)
    copied = find_ensemble(models, "e")
    assert copied is not None
    for run in copied.members:
        run.calibration.unlink()
    write_ensemble_results(copied)
    assert "not calibrated" in caplog.text
    table = read_labelled_predictions(copied.results.predictions_test)
    tables = [read_labelled_predictions(run.predictions_test) for run in copied.members]
    frame = load_predictor(copied.members).predict(tiny.source).set_index("id")
    for name in table.properties:
        spread = np.std([one.prediction[name] for one in tables], axis=0, ddof=1)
        np.testing.assert_allclose(table.sigma_of(name), spread, rtol=1e-3, atol=1e-4)
        sigmas = frame.loc[table.ids, f"{name}_sigma"]
        np.testing.assert_allclose(table.sigma_of(name), sigmas, rtol=1e-3, atol=1e-4)
        assert np.isnan(table.interval_of(name)).all()
