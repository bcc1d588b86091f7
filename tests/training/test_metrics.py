"""Metrics by property, the score, the table and the files."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from phase2hpc.errors import Phase2Error
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.metrics import (
    constant_mae,
    metrics_by_property,
    metrics_table,
    property_metrics,
    score,
    write_metrics,
)

NAN = math.nan


def test_by_hand() -> None:
    metrics = property_metrics([1.0, 5.0, 4.0, 9.0], [0.0, 2.0, 4.0, NAN], [0.0, 4.0, NAN])
    assert metrics == {
        "mae": pytest.approx(4 / 3),
        "mae_se": pytest.approx(math.sqrt(7 / 3) / math.sqrt(3)),
        "rmse": pytest.approx(math.sqrt(10 / 3)),
        "r2": pytest.approx(1 - 10 / 8),
        "n": 3,
        "mad": 2.0,
        # The median of the training labels is 2.
        "constant_mae": pytest.approx(4 / 3),
    }
    assert list(metrics) == ["mae", "mae_se", "rmse", "r2", "n", "mad", "constant_mae"]


def test_standard_error_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    errors = rng.exponential(size=(400, 200))
    metrics = [property_metrics(e, np.zeros(200), [0.0, 1.0]) for e in errors]
    observed = np.std(np.array([m["mae"] for m in metrics], dtype=float))
    assert np.mean(np.array([m["mae_se"] for m in metrics], dtype=float)) == pytest.approx(
        observed, rel=0.1
    )


def test_float32_labels_are_summed_in_double() -> None:
    target = np.full(200_000, 1000.1, dtype=np.float32)
    metrics = property_metrics(target + np.float32(0.5), target, target)
    assert metrics["mae"] == pytest.approx(0.5, abs=1e-4)
    assert metrics["r2"] is None
    assert metrics["mad"] == pytest.approx(0.0, abs=1e-6)


def test_too_few_labels_give_none_and_valid_json() -> None:
    none = property_metrics([1.0], [NAN], [1.0, 3.0])
    assert none == {
        "mae": None, "mae_se": None, "rmse": None, "r2": None, "n": 0, "mad": 1.0,
        "constant_mae": None,
    }  # fmt: skip
    one = property_metrics([1.0], [2.0], [NAN])
    assert (one["mae"], one["mae_se"], one["r2"], one["mad"]) == (1.0, None, None, None)
    json.dumps([none, one], allow_nan=False)


def test_a_prediction_that_is_not_finite_is_no_metric() -> None:
    with pytest.raises(Phase2Error, match="1 of 2 predictions"):
        property_metrics([NAN, 1.0], [1.0, 1.0], [1.0])
    assert property_metrics([NAN, 1.0], [NAN, 1.0], [1.0])["mae"] == 0.0
    with pytest.raises(ValueError, match="2 predictions for 1"):
        property_metrics([1.0, 1.0], [1.0], [1.0])


def test_constant_predictor_is_the_training_median() -> None:
    assert constant_mae([0.0, 4.0, NAN], [1.0, 2.0, 300.0, NAN]) == 2.0
    assert constant_mae([NAN], [1.0]) is None
    assert constant_mae([1.0], [NAN]) is None


def test_columns_are_named_properties() -> None:
    target = np.array([[1.0, NAN], [3.0, 10.0]])
    metrics = metrics_by_property(("a", "b"), target + np.array([1.0, 2.0]), target, target)
    assert (metrics["a"]["mae"], metrics["b"]["mae"], metrics["b"]["n"]) == (1.0, 2.0, 1)
    metrics = metrics_by_property(("a", "b"), target, target, [[1.0, 4.0]])
    assert (metrics["a"]["constant_mae"], metrics["b"]["constant_mae"]) == (1.0, 6.0)
    with pytest.raises(Phase2Error, match=r"^b: 1 of 1 predictions"):
        metrics_by_property(("a", "b"), target * [1.0, math.inf], target, target)


def test_score() -> None:
    train = [0.0, 2.0]
    half = property_metrics([0.5, 2.5], [0.0, 2.0], train)
    one = property_metrics([1.0, 3.0], [0.0, 2.0], train)
    unlabelled = property_metrics([1.0], [NAN], train)
    constant = property_metrics([8.0], [3.0], [3.0, 3.0])
    assert score({"a": half, "b": one}) == 0.75
    assert score({"a": half, "b": one, "c": unlabelled, "d": constant}) == 0.75
    assert score({"d": constant}) == 5.0


def test_score_does_not_depend_on_the_unit() -> None:
    rng = np.random.default_rng(1)
    prediction, target, train = rng.normal(size=(3, 50))
    plain = score({"a": property_metrics(prediction, target, train)})
    scaled = property_metrics(1e3 * prediction + 5, 1e3 * target + 5, 1e3 * train + 5)
    assert score({"a": scaled}) == pytest.approx(plain)


def test_table() -> None:
    rng = np.random.default_rng(2)
    metrics = {
        "bulk_modulus": property_metrics(*rng.normal(100, 20, size=(3, 40))),
        "spillage": property_metrics([1.0], [NAN], [1.0]),
        "my_own": property_metrics([1.0], [2.0], [1.0, 2.0]),
    }
    metrics["bulk_modulus"]["constant_mae"] = 61.25
    table = metrics_table(metrics, {"bulk_modulus": "GPa"})
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == [
        "property",
        "unit",
        "n",
        "MAE",
        "±",
        "SE",
        "RMSE",
        "R2",
        "constant",
        "MAE",
        "MAE/MAD",
    ]
    assert lines[2].split()[:3] == ["bulk_modulus", "GPa", "40"] and "61.25" in lines[2]
    assert lines[3].split() == ["spillage", "-", "0", "-", "-", "-", "-", "-"]
    assert lines[4].split() == ["my_own", "-", "1", "1.000", "1.000", "-", "0.5000", "2.000"]


def test_files(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    metrics = {
        "test": {"band_gap": property_metrics([1.0, 2.0], [1.5, 2.5], [0.0, 1.0])},
        "val": {"band_gap": property_metrics([1.0], [NAN], [0.0, 1.0])},
    }
    write_metrics(run, metrics, {"band_gap": "eV"})
    read = json.loads(run.metrics_json.read_text())
    assert list(read) == ["val", "test"]
    assert read == metrics
    rows = list(csv.DictReader(run.metrics_csv.open()))
    assert list(rows[0]) == ["split", "property", "unit", *metrics["test"]["band_gap"]]
    assert [row["split"] for row in rows] == ["val", "test"]
    assert (rows[0]["mae"], rows[0]["n"]) == ("", "0")
    assert (rows[1]["unit"], float(rows[1]["mae"])) == ("eV", 0.5)
    with pytest.raises(ValueError, match="train"):
        write_metrics(run, {"train": {}}, {})
