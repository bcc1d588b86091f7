"""Which models have a mean, and what an export says of different ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phase2hpc.data.graph import GraphSettings
from phase2hpc.errors import InputError
from phase2hpc.inference.ensemble_members import check_members
from phase2hpc.inference.export import export_runs
from phase2hpc.inference.predictor import Predictor
from phase2hpc.inference.target_scaler import TargetScaler
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.run_directory import RunDirectory

CPU = torch.device("cpu")


def changed(run: RunDirectory, folder: Path, **changes: Any) -> RunDirectory:
    """A copy of a finished run whose model has other fields."""
    other = RunDirectory(shutil.copytree(run.path, folder))
    replace(TrainedModel.load(run.best), **changes).save(other)
    return other


def with_units(scaler: TargetScaler, **units: str) -> TargetScaler:
    other = TargetScaler.from_state_dict(scaler.state_dict())
    other.units |= units
    return other


def with_order(scaler: TargetScaler) -> TargetScaler:
    other = TargetScaler.from_state_dict(scaler.state_dict())
    other.properties = other.properties[::-1]
    return other


def with_fewer(scaler: TargetScaler) -> TargetScaler:
    other = TargetScaler.from_state_dict(scaler.state_dict())
    other.auxiliary = 1
    return other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda m: {"scaler": with_units(m.scaler, band_gap="meV")}, "band_gap: meV and eV"),
        (lambda m: {"scaler": with_units(m.scaler, ehull="")}, "ehull: - and eV/atom"),
        (lambda m: {"scaler": with_fewer(m.scaler)}, "the second one predicts piezoelectric"),
        (lambda m: {"scaler": with_order(m.scaler)}, "another order"),
        (
            lambda m: {"graph_settings": GraphSettings(cutoff=4.5, max_neighbors=None)},
            "cutoff 4.5 and 6.0, max_neighbors none and 12",
        ),
    ],
)
def test_models_that_differ_have_no_mean(trained, tmp_path, changes, words) -> None:
    run = trained["cgcnn"]
    model = TrainedModel.load(run.best)
    other = RunDirectory(tmp_path / "run_other")
    with pytest.raises(InputError) as refused:
        check_members([run, other], [model, replace(model, **changes(model))])
    text = str(refused.value)
    assert words in text and str(run.path) in text and str(other.path) in text
    check_members([run, other], [model, model])


def test_neither_loaded_nor_exported(trained, tmp_path) -> None:
    run = trained["cgcnn"]
    scaler = with_units(TrainedModel.load(run.best).scaler, band_gap="meV")
    runs = [run, changed(run, tmp_path / "run_other", scaler=scaler)]
    with pytest.raises(InputError, match="band_gap: meV and eV"):
        Predictor(runs, CPU)
    with pytest.raises(InputError, match="band_gap: meV and eV"):
        export_runs(runs, tmp_path / "given")
    assert not (tmp_path / "given").exists()


def test_the_card_of_different_members_is_true_of_all(trained, tmp_path) -> None:
    one, two = trained["cgcnn"], trained["e3nn"]
    models = [TrainedModel.load(run.best) for run in (one, two)]
    config = models[1].config.model_copy(update={"auxiliary": ("strain",)})
    other = changed(two, tmp_path / "run_other", elements=[1, 8], epoch=7, config=config)
    other.update_manifest(training_crystals=1234, store="/data/ours.h5", store_hash="abc")
    runs = [one, other]
    card = export_runs(runs, tmp_path / "given").model_card.read_text()
    first = f"cgcnn, level lite, weights of epoch {models[0].epoch}"
    assert f"\n{first}; e3nn, level lite, weights of epoch 7.\n" in card
    assert "tags: [materials, crystals, regression, cgcnn, e3nn]" in card
    assert "The mean of the predictions of 2 models." in card
    assert "Trained on 40 crystals of the store `tiny.h5` (content hash `" in card
    assert " and on 1,234 crystals of the store `ours.h5` (content hash `abc`)." in card
    assert "Labels of strain were trained too in some models" in card
    (line,) = [x for x in card.splitlines() if "did not occur in the training of every model" in x]
    missing = set(line.split(": ")[1].rstrip(".").split(", "))
    assert {"He", "Fm"} <= missing
    assert Predictor(runs, CPU).elements.isdisjoint({2, 100})
    alike = export_runs([one, changed(one, tmp_path / "run_same")], tmp_path / "alike")
    card = alike.model_card.read_text()
    assert f"\n{first}.\nThe mean of the" in card
    assert "Elements that never occurred in training: " in card and " and on " not in card


def test_the_card_of_members_calibrated_apart(trained, tmp_path) -> None:
    one = trained["cgcnn"]
    same = changed(one, tmp_path / "run_same")
    text = "The model is not calibrated"
    assert text not in export_runs([one, same], tmp_path / "a").model_card.read_text()
    same.calibration.unlink()
    assert text in export_runs([one, same], tmp_path / "b").model_card.read_text()
