"""Runs from request to results; a run that cannot start leaves nothing behind."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from tiny import LITTLE

from phase2hpc.config.run_config import build_config
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs import provenance
from phase2hpc.runs.lease_record import LeaseRecord, find_holder
from phase2hpc.training import evaluation
from phase2hpc.training import runner as session
from phase2hpc.training.loop import TrainingLoop
from phase2hpc.training.request import TrainRequest
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
    assert (manifest.state, manifest.message) == ("failed", "the model has diverged")


# ---- a run that does not come to begin -----------------------------------------------------------


def submitted(train_tiny, models):
    """A run as ``submit`` leaves it: settings, and a manifest that says so."""
    run = train_tiny(models, epochs=1)
    manifest = run.read_manifest()
    shutil.rmtree(run.path)
    run.path.mkdir()
    config = build_config(
        "cgcnn", "lite", ["band_gap"], {**LITTLE["cgcnn"], "store": manifest.store}
    )
    run.write_config(config)
    run.write_manifest(manifest.model_copy(update={"state": "submitted", "store_hash": None}))
    return run


def out_of_memory(*arguments):
    raise MemoryError("no room for the model")


def refuse(run):
    raise Phase2Error("restarted too often")


@pytest.mark.parametrize(
    ("broken", "at_start", "words"),
    [
        ("store", None, "gone.h5"),
        ("model", None, "MemoryError: no room for the model"),
        (None, refuse, "restarted too often"),
    ],
)
def test_a_job_that_cannot_begin_has_failed(
    broken, at_start, words, train_tiny, tmp_path, monkeypatch
) -> None:
    """It is written while the run is still this job's."""
    run = submitted(train_tiny, tmp_path)
    if broken == "store":
        run.write_config(
            build_config("cgcnn", "lite", ["band_gap"], {"store": tmp_path / "gone.h5"})
        )
    if broken == "model":
        monkeypatch.setattr(Trainer, "__init__", out_of_memory)
    held, write = [], session.RunDirectory.write_manifest

    def seen(self, manifest):
        held.append((manifest.state, find_holder(self) is not None))
        write(self, manifest)

    monkeypatch.setattr(session.RunDirectory, "write_manifest", seen)
    with pytest.raises((Phase2Error, MemoryError)):
        session.continue_run(run, session.JobContext(1.0, at_start or (lambda run: None)))
    assert held == [("failed", True)] and find_holder(run) is None
    manifest = run.read_manifest()
    assert manifest.state == "failed" and words in manifest.message
    assert "\n" not in manifest.message


def test_a_run_of_another_is_not_said_to_have_failed(train_tiny, tmp_path) -> None:
    run = submitted(train_tiny, tmp_path)
    before = run.manifest.read_bytes()
    parent = os.getppid()
    record = LeaseRecord.of_this_process("t", None, 90.0).model_copy(
        update={"pid": parent, "process_start": provenance.process_start(parent)}
    )
    run.lease.mkdir()
    (run.lease / "t.json").write_text(record.model_dump_json())
    with pytest.raises(InputError, match="is being trained by"):
        session.continue_run(run, session.JobContext(None, lambda run: None))
    assert run.manifest.read_bytes() == before


def test_a_mistake_in_a_resume_by_hand_leaves_the_run_as_it_was(
    train_tiny, tmp_path, monkeypatch
) -> None:
    with pytest.raises(StoppedEarly):
        train_tiny(tmp_path, max_hours=1e-9)
    run = session.RunDirectory(tmp_path / "multitask_cgcnn_lite" / "run_one")
    before = run.manifest.read_bytes()
    with pytest.raises(InputError, match="no store at"):
        train_tiny(tmp_path, resume=True, store=tmp_path / "gone.h5", max_hours=None)
    assert run.manifest.read_bytes() == before
    monkeypatch.setattr(Trainer, "__init__", out_of_memory)
    with pytest.raises(MemoryError):
        train_tiny(tmp_path, resume=True, max_hours=None)
    assert run.read_manifest().state == "failed"


def test_one_with_results_has_them_still_after_a_failed_resume(
    train_tiny, tmp_path, monkeypatch
) -> None:
    run = train_tiny(tmp_path, epochs=1)
    monkeypatch.setattr(Trainer, "__init__", out_of_memory)
    with pytest.raises(MemoryError):
        train_tiny(tmp_path, resume=True, epochs=2)
    assert run.read_manifest().state == "finished"


@pytest.mark.parametrize("batch", [1, 2])
def test_a_signal_in_the_evaluation_stops_it(batch, train_tiny, tmp_path, monkeypatch) -> None:
    """The state is saved before; resume evaluates again."""
    reference = train_tiny(tmp_path / "whole", epochs=1)
    original, batches = evaluation.Trainer.infer_on_all_ranks, []

    def predict(self, model, indices, before_each):
        def counted(done):
            batches.append(1)
            if self.epoch == 1 and len(batches) == batch:
                signal.raise_signal(signal.SIGTERM)
            before_each(done)

        batches.clear()
        return original(self, model, indices, counted)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Trainer, "infer_on_all_ranks", predict)
        patch.setattr("phase2hpc.inference.batched.MAX_BATCH_CRYSTALS", 8)
        with pytest.raises(StoppedEarly, match="SIGTERM: state saved at step 5 of 5"):
            train_tiny(tmp_path / "cut", epochs=1)
    run = session.RunDirectory(tmp_path / "cut" / "multitask_cgcnn_lite" / "run_one")
    assert run.read_manifest().state == "stopped" and not run.metrics_json.exists()
    train_tiny(tmp_path / "cut", resume=True)
    assert run.read_manifest().state == "finished"
    assert run.metrics_json.read_bytes() == reference.metrics_json.read_bytes()


def test_a_failed_evaluation_is_done_by_resume(train_tiny, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_metrics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_tiny(tmp_path, epochs=1)
    run = train_tiny(tmp_path, resume=True)
    assert run.read_manifest().state == "finished" and run.metrics_json.exists()
    assert len(json.loads(run.history.read_text())) == 1


def test_a_resumed_run_keeps_its_device(train_tiny, tmp_path) -> None:
    """As where the machine has GPUs, and the run was started on the CPU."""
    train_tiny(tmp_path, epochs=1, device="cpu")
    request = TrainRequest("cgcnn", "lite", tmp_path, resume=True, run_id="one")
    assert session._device(request) == "cpu"
    assert session._device(replace(request, overrides={"device": "cuda"})) == "cuda"
    assert session._device(replace(request, run_id="none")) == "auto"


def test_a_taken_run_id_is_refused_and_left_alone(train_tiny, tmp_path) -> None:
    run = train_tiny(tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file()}
    with pytest.raises(InputError, match="exists already"):
        train_tiny(tmp_path, epochs=1)
    assert before == {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file()}


def test_the_model_in_best_is_what_the_metrics_are_of(trained, tiny) -> None:
    run = trained["cgcnn"]
    best = TrainedModel.load(run.best)
    trainer = Trainer(run.read_config(), Store.open(tiny.store))
    prediction = trainer.infer_on_all_ranks(best.model, trainer.val).physical(trainer.scaler)
    metrics = json.loads(run.metrics_json.read_text())["val"]
    for column, name in enumerate(trainer.properties):
        error = np.abs(prediction[:, column] - trainer.labels(trainer.val)[:, column])
        assert np.nanmean(error) == pytest.approx(metrics[name]["mae"], rel=1e-12)


def test_at_the_end_each_crystal_is_inferred_once(train_tiny, tmp_path, monkeypatch) -> None:
    """Metrics, predictions and calibration are made of the same outputs."""
    inferred, infer = [], TrainingLoop.infer_or_stop

    def counted(self, model, indices, label="evaluating"):
        if label == "evaluating":
            inferred.extend(indices.tolist())
        return infer(self, model, indices, label)

    monkeypatch.setattr(TrainingLoop, "infer_or_stop", counted)
    train_tiny(tmp_path, epochs=1)
    assert len(inferred) == len(set(inferred)) == LITTLE["cgcnn"]["max_samples"] + 20 + 20
