"""Frozen files of every schema version are read, predicted with and resumed from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from phase2hpc.checkpointing.schema import SCHEMA_VERSION
from phase2hpc.config.run_config import RunConfig
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import infer
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, create_run, family_folder

FROZEN = Path(__file__).parent / "frozen"
VERSIONS = range(1, SCHEMA_VERSION + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_frozen_best_predicts_as_it_did(version, tiny) -> None:
    best = TrainedModel.load(FROZEN / f"best_v{version}.pt")
    assert best.elements and best.epoch >= 1 and best.score > 0
    store = Store.open(tiny.store)
    indices = store.split_indices("test")
    predicted = infer(best.model, store, indices, device=torch.device("cpu")).physical(best.scaler)
    with open(FROZEN / f"predictions_v{version}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == store.ids(indices)
    wanted = [[float(row[name]) for name in best.model.properties] for row in rows]
    np.testing.assert_allclose(predicted, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_frozen_checkpoint_is_gone_on_from(version, tiny, train_tiny, tmp_path, capsys) -> None:
    """To the end of the run that it was taken from, but for the rounding of another numerics
    version."""
    saved = TrainedModel.load(FROZEN / f"best_v{version}.pt").config
    runtime = saved.runtime.model_copy(update={"store": tiny.store, "models_dir": tmp_path})
    config = RunConfig.model_validate(saved.model_copy(update={"runtime": runtime}).model_dump())
    run = create_run(tmp_path, family_folder(config.algorithm, config.level), "one")
    store = Store.open(tiny.store)
    manifest = Manifest.for_run(run, config, store.path, store.content_hash)
    run.write_manifest(manifest.model_copy(update={"state": "stopped"}))
    run.write_config(config)
    run.checkpoint.write_bytes((FROZEN / f"checkpoint_v{version}.pt").read_bytes())
    with pytest.raises(InputError, match="numerics version 1 there"):
        train_tiny(tmp_path, resume=True, properties=None)
    again = train_tiny(tmp_path, resume=True, properties=None, accept_changes=True)
    assert "resuming from step 4 of 9 (checkpoint.pt)" in capsys.readouterr().out
    assert again == RunDirectory(run.path) and not run.damaged_checkpoints()
    wanted = json.loads((FROZEN / f"history_v{version}.json").read_text())
    history = json.loads(run.history.read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3]
    for record, old in zip(history, wanted, strict=True):
        # The first epoch ended before the checkpoint. In the five steps after it the difference of
        # rounding grows to 2e-6 of a value; other processors may differ by more.
        tolerance = 0.0 if record["epoch"] == 1 else 1e-4
        assert record["step"] == old["step"] and record["lr"] == pytest.approx(old["lr"])
        for key in ("train_loss", "val_score"):
            assert record[key] == pytest.approx(old[key], rel=tolerance, abs=0.0), key
