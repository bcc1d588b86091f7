"""Files for the JARVIS-Leaderboard and for matbench, from runs that were evaluated."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import numpy as np
import pytest

from phase2hpc.analysis.leaderboards import matbench_record
from phase2hpc.errors import InputError
from phase2hpc.inference.labelled_predictions import read_labelled_predictions


def test_a_contribution_to_the_jarvis_leaderboard(trained, tmp_path, command) -> None:
    run = trained["cgcnn"]
    folder = tmp_path / "contribution"
    code, out, _ = command("leaderboard", run.path, folder)
    assert code == 0 and out.count("written: ") == len(list(folder.iterdir()))
    name = "AI-SinglePropertyPrediction-optb88vdw_bandgap-dft_3d-test-mae.csv"
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        assert archive.namelist() == [name]
        rows = list(csv.DictReader(io.StringIO(archive.read(name).decode())))
    assert list(rows[0]) == ["id", "target", "prediction"]
    errors = [abs(float(row["prediction"]) - float(row["target"])) for row in rows]
    metrics = json.loads(run.metrics_json.read_text())["test"]["band_gap"]
    assert len(rows) == metrics["n"]
    assert np.mean(errors) == pytest.approx(metrics["mae"], rel=1e-5)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["model_name"] == run.id and metadata["project_url"]


def test_a_record_of_matbench(train_tiny, tmp_path, command) -> None:
    run = train_tiny(tmp_path, properties="band_gap", epochs=1)
    folder = tmp_path / "record"
    code, _, err = command("leaderboard", *[run.path] * 5, folder, "--matbench", "matbench_mp_gap")
    assert code == 0, err
    record = json.loads((folder / "matbench_mp_gap.json").read_text())
    assert record["dataset_name"] == "matbench_mp_gap" and len(record["results"]) == 5
    fold = record["results"]["fold_3"]
    table = read_labelled_predictions(run.predictions("test"))
    assert fold["data"] == dict(zip(table.ids, table.prediction["band_gap"].tolist(), strict=True))
    metrics = json.loads(run.metrics_json.read_text())["test"]["band_gap"]
    assert fold["scores"]["mae"] == pytest.approx(metrics["mae"], rel=1e-5)
    assert fold["scores"]["rmse"] == pytest.approx(metrics["rmse"], rel=1e-5)
    assert set(fold["scores"]) == {"mae", "rmse", "mape*", "max_error"}


def test_what_is_no_record_of_matbench(trained, command, tmp_path) -> None:
    table = read_labelled_predictions(trained["cgcnn"].predictions("test"))
    with pytest.raises(InputError, match="5 folds"):
        matbench_record("matbench_mp_gap", [table] * 4, [{}] * 4)
    with pytest.raises(InputError, match="one property"):
        matbench_record("matbench_mp_gap", [table] * 5, [{}] * 5)
    run = trained["cgcnn"].path
    code, _, err = command("leaderboard", run, run, tmp_path)
    assert code == 2 and "--matbench" in err and err.count("\n") == 1
