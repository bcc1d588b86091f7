"""Calibration: made at the end of training or by the command, and used by every prediction."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from paths import EXAMPLES
from safetensors.numpy import load_file, save_file

import phase2hpc
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.calibrate import calibrate
from phase2hpc.inference.calibration import Calibration
from phase2hpc.inference.labelled_predictions import read_labelled_predictions
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.run_directory import RunDirectory

DIAMOND = EXAMPLES / "C-diamond.cif"
# A property with enough labels of the 20 validation crystals, and one without.
CALIBRATED, RARE = "formation_energy", "spillage"


@pytest.fixture
def copied(trained, tmp_path):
    """``copied("cgcnn")``: a copy of a finished run, to be changed."""

    def copy(algorithm: str) -> RunDirectory:
        return RunDirectory(shutil.copytree(trained[algorithm].path, tmp_path / algorithm))

    return copy


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_the_command_makes_what_training_made(algorithm, copied, tiny, command) -> None:
    run = copied(algorithm)
    made = run.calibration.read_bytes()
    run.calibration.unlink()
    code, out, _ = command("calibrate", run.path)
    assert code == 0 and out == f"calibrated: {run.calibration}\n"
    assert run.calibration.read_bytes() == made
    found = Calibration.load(run.calibration)
    store, best = Store.open(tiny.store), TrainedModel.load(run.best)
    assert found is not None and found.weights_hash == best.weights_hash
    assert found.properties == best.scaler.reported
    assert len(found.distance) == len(store.split_indices("val"))
    assert len(found.embedding.crystals) == best.config.training.max_samples
    assert found.max_atoms <= np.diff(store.node_ptr).max()


def test_the_file_is_small_plain_and_holds_no_path(trained, tiny) -> None:
    run = trained["e3nn"]
    content = run.calibration.read_bytes()
    assert len(load_file(run.calibration)) == 6 and len(content) < 20_000
    for private in (str(tiny.store.parent), str(run.path.parent), str(Path.home())):
        assert private.encode() not in content


def test_every_prediction_has_sigma_and_interval(trained, tmp_path, command) -> None:
    output = tmp_path / "p.json"
    run = trained["e3nn"].path
    assert command("predict", "--dir", EXAMPLES, "--run", run, "--output", output)[0] == 0
    rows = json.loads(output.read_text())
    assert len(rows) == len(list(EXAMPLES.glob("*.cif")))
    for row in rows:
        value, low, high = (row[CALIBRATED + kind] for kind in ("", "_low", "_high"))
        assert low < value < high and row[f"{CALIBRATED}_sigma"] > 0
        # Clipped as the prediction is.
        assert row["band_gap_low"] >= 0.0
        assert [row[RARE + kind] is None for kind in ("", "_sigma", "_low", "_high")] == [
            False, True, True, True,
        ]  # fmt: skip
    wide = phase2hpc.load_model(run, interval=0.5).predict(EXAMPLES)
    narrow = wide[f"{CALIBRATED}_high"] - wide[f"{CALIBRATED}_low"]
    whole = np.array([row[f"{CALIBRATED}_high"] - row[f"{CALIBRATED}_low"] for row in rows])
    assert (narrow < whole).all()
    code, out, _ = command("predict", "--cif", DIAMOND, "--run", run, "--interval", "0.5")
    assert code == 0 and "50% interval" in out and " to " in out


@pytest.mark.parametrize("interval", ["0", "1", "90", "nan"])
def test_an_interval_is_a_coverage(interval, trained, command) -> None:
    code, _, err = command(
        "predict", "--cif", DIAMOND, "--run", trained["cgcnn"].path, "--interval", interval
    )
    assert code == 2 and err.count("\n") == 1 and "between 0 and 1" in err


def test_the_files_of_a_run_have_sigma(trained) -> None:
    run = trained["cgcnn"]
    for split in ("val", "test"):
        table = read_labelled_predictions(run.predictions(split))
        assert np.isfinite(table.sigma_of(CALIBRATED)).all()
        assert not np.isfinite(table.sigma_of(RARE)).any()
    # The same as of predict, which reads the crystals from their store's source.
    inside = np.abs(table.error(CALIBRATED)) < 10 * table.sigma_of(CALIBRATED)
    assert inside.mean() > 0.8


def test_without_a_calibration_a_model_still_predicts(copied, command, tmp_path, caplog) -> None:
    run = copied("cgcnn")
    run.calibration.unlink()
    output = tmp_path / "p.csv"
    code, _, _ = command("predict", "--cif", DIAMOND, "--run", run.path, "--output", output)
    (row,) = csv.DictReader(output.read_text().splitlines())
    assert code == 0 and row[CALIBRATED] and row["in_domain"] == "true"
    assert not any(row[CALIBRATED + kind] for kind in ("_sigma", "_low", "_high"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "phase2hpc calibrate" in record.message


def test_of_other_weights_it_is_not_used(copied, trained, caplog) -> None:
    run = copied("cgcnn")
    shutil.copy(trained["e3nn"].calibration, run.calibration)
    frame = phase2hpc.load_model(run).predict(DIAMOND)
    assert frame[f"{CALIBRATED}_sigma"].isna().all() and "of other weights" in caplog.text


def test_a_damaged_one_is_one_line(copied, command) -> None:
    run = copied("cgcnn")
    whole = run.calibration.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"{}" * 20, whole[:8] + b"x" * 100):
        run.calibration.write_bytes(content)
        code, _, err = command("predict", "--cif", DIAMOND, "--run", run.path)
        assert code == 2 and err.count("\n") == 1 and run.calibration.name in err


@pytest.mark.parametrize(
    "change",
    [
        {"validation.distance": np.zeros(3, np.float32)},
        {"validation.scaled": np.zeros((20, 2), np.float32)},
        {"embedding.center": np.zeros((16, 1), np.float32)},
        {"embedding.crystals": np.zeros((40, 9), np.int32)},
    ],
)
def test_tensors_of_other_shapes_are_refused(change, copied) -> None:
    from safetensors import safe_open

    run = copied("cgcnn")
    with safe_open(run.calibration, "numpy") as file:
        metadata = file.metadata()
    save_file({**load_file(run.calibration), **change}, run.calibration, metadata)
    with pytest.raises(InputError, match="make it again by phase2hpc calibrate"):
        Calibration.load(run.calibration)


def test_another_store_warns_and_a_missing_one_is_named(copied, tiny, tmp_path, caplog) -> None:
    run = copied("cgcnn")
    other = tmp_path / "other.h5"
    phase2hpc.prepare(tiny.source, other, split="random", workers=1)
    calibrate(run, other)
    assert "not the store that the model was trained on" in caplog.text
    before = run.calibration.read_bytes()
    run.update_manifest(store=str(other))
    with pytest.raises(InputError, match=r"other\.h5 is not the store that .* by --store"):
        calibrate(run)
    assert run.calibration.read_bytes() == before
    with pytest.raises(InputError, match="other graphs|its graphs are not those"):
        phase2hpc.prepare(tiny.source, tmp_path / "short.h5", cutoff=4.0, workers=1)
        calibrate(run, tmp_path / "short.h5")
    run.update_manifest(store=str(tmp_path / "gone.h5"))
    with pytest.raises(InputError, match=r"not at .*gone\.h5: name it by --store"):
        calibrate(run)


def test_an_ensemble_is_calibrated_by_its_members(train_tiny, tmp_path, caplog) -> None:
    runs = [
        train_tiny(tmp_path, seed=seed, run_id=f"s{seed}", max_samples=None, epochs=2)
        for seed in range(3)
    ]
    frame = phase2hpc.load_model(runs).predict(EXAMPLES)
    members = [phase2hpc.load_model(run).predict(EXAMPLES)[CALIBRATED] for run in runs]
    assert frame[CALIBRATED].to_numpy() == pytest.approx(np.mean(members, axis=0))
    assert (frame[f"{CALIBRATED}_low"] < frame[CALIBRATED]).all()
    assert (frame[f"{CALIBRATED}_high"] > frame[CALIBRATED]).all()
    assert not caplog.records
    # Without the calibration of one of them, the spread alone is left.
    runs[0].calibration.unlink()
    frame = phase2hpc.load_model(runs).predict(EXAMPLES)
    assert frame[f"{CALIBRATED}_sigma"].to_numpy() == pytest.approx(np.std(members, axis=0, ddof=1))
    assert frame[f"{CALIBRATED}_low"].isna().all() and "not calibrated" in caplog.text
