"""A run from request to results: nothing is left of one that could not begin."""

from __future__ import annotations

import csv
import json
import math
import signal

import numpy as np
import pytest

from phase2hpc.data.store import Store
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.training import evaluation, session
from phase2hpc.training.best import BestModel
from phase2hpc.training.trainer import Trainer


def test_the_files_of_a_run_agree(trained, tiny) -> None:
    """metrics.json is what predictions_test.csv and the store's labels say."""
    store = Store.open(tiny.store)
    for run in trained.values():
        metrics = json.loads(run.metrics_json.read_text())
        with run.predictions_test.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == store.ids(store.split_indices("test"))
        with run.metrics_csv.open(newline="") as file:
            table = {(row["split"], row["property"]): row for row in csv.DictReader(file)}
        train = store.split_indices("train")
        for name in run.read_manifest().properties:
            pairs = [
                (float(r[name]), float(r[f"{name}_target"])) for r in rows if r[f"{name}_target"]
            ]
            mae = np.mean([abs(p - t) for p, t in pairs])
            found = metrics["test"][name]
            assert found["n"] == len(pairs) and found["mae"] == pytest.approx(mae, rel=1e-5)
            assert float(table["test", name]["mae"]) == found["mae"]
            assert all(math.isfinite(float(row[name])) for row in rows)
            # Of the training crystals that were drawn, not of all.
            assert found["mad"] > 0 and np.isfinite(store.labels[name][train]).any()
        config = run.read_config()
        assert config.runtime.store == tiny.store
        manifest = run.read_manifest()
        assert manifest.store_hash == store.content_hash and manifest.state == "finished"
        assert manifest.step == 15 and manifest.epoch == 3 and manifest.message == ""


def test_a_failure_is_in_the_manifest(train_tiny, tmp_path, monkeypatch) -> None:
    def diverge(self):
        raise Phase2Error("the model has diverged")

    monkeypatch.setattr(Trainer, "_autocast", diverge)
    with pytest.raises(Phase2Error, match="diverged"):
        train_tiny(tmp_path)
    manifest = session.RunDirectory(tmp_path / "multitask_cgcnn_lite" / "run_one").read_manifest()
    assert (manifest.state, manifest.message) == ("failed", "Phase2Error: the model has diverged")


@pytest.mark.parametrize("batch", [1, 2])
def test_a_signal_in_the_evaluation_stops_it(batch, train_tiny, tmp_path, monkeypatch) -> None:
    """The state is saved before; resume evaluates again."""
    reference = train_tiny(tmp_path / "whole", epochs=1)
    original, batches = evaluation.Trainer.predict, []

    def predict(self, model, indices, before_each):
        def counted():
            batches.append(1)
            if self.epoch == 1 and len(batches) == batch:
                signal.raise_signal(signal.SIGTERM)
            before_each()

        batches.clear()
        return original(self, model, indices, counted)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Trainer, "predict", predict)
        patch.setattr("phase2hpc.training.inference.CRYSTALS_A_BATCH", 8)
        with pytest.raises(StoppedEarly, match="SIGTERM: state saved at step 5 of 5"):
            train_tiny(tmp_path / "cut", epochs=1)
    run = session.RunDirectory(tmp_path / "cut" / "multitask_cgcnn_lite" / "run_one")
    assert run.read_manifest().state == "stopped" and not run.metrics_json.exists()
    train_tiny(tmp_path / "cut", resume=True)
    assert run.read_manifest().state == "finished"
    assert run.metrics_json.read_bytes() == reference.metrics_json.read_bytes()


def test_a_failed_evaluation_is_done_by_resume(train_tiny, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_metrics", lambda run, metrics: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_tiny(tmp_path, epochs=1)
    run = train_tiny(tmp_path, resume=True)
    assert run.read_manifest().state == "finished" and run.metrics_json.exists()
    assert len(json.loads(run.history.read_text())) == 1


def test_a_taken_run_id_is_refused_and_left_alone(train_tiny, tmp_path) -> None:
    run = train_tiny(tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file()}
    with pytest.raises(InputError, match="exists already"):
        train_tiny(tmp_path, epochs=1)
    assert before == {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file()}


def test_the_model_in_best_is_what_the_metrics_are_of(trained, tiny) -> None:
    run = trained["cgcnn"]
    best = BestModel.load(run.best)
    trainer = Trainer(run.read_config(), Store.open(tiny.store))
    prediction = trainer.predict(best.model, trainer.val)
    metrics = json.loads(run.metrics_json.read_text())["val"]
    for column, name in enumerate(trainer.properties):
        error = np.abs(prediction[:, column] - trainer.labels(trainer.val)[:, column])
        assert np.nanmean(error) == pytest.approx(metrics[name]["mae"], rel=1e-12)
