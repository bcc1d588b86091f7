"""Metrics by property, the score for model selection, and their files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phase2hpc.errors import Phase2Error
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils import tables
from phase2hpc.utils.atomic_io import write_atomically

SPLITS = ("val", "test")


class PropertyMetrics(TypedDict):
    """Metrics of one property in its unit; None where there are too few labels.

    ``mae_se`` is the standard error of the MAE, ``n`` the number of labelled crystals, ``mad``
    the mean absolute deviation of the training labels from their mean, ``constant_mae`` the MAE of
    the constant predictor, the median of the training labels.
    """

    mae: float | None
    mae_se: float | None
    rmse: float | None
    r2: float | None
    n: int
    mad: float | None
    constant_mae: float | None


def property_metrics(
    prediction: ArrayLike, target: ArrayLike, train_targets: ArrayLike
) -> PropertyMetrics:
    """Metrics of one property; ``prediction`` and ``target`` are (N,), ``train_targets`` (M,).

    NaN in a target is a missing label and is left out. Raises Phase2Error if a prediction for a
    labelled crystal is not finite.
    """
    target = _vector(target)
    prediction = _vector(prediction)
    if prediction.shape != target.shape:
        raise ValueError(f"{prediction.size} predictions for {target.size} targets")
    labelled = ~np.isnan(target)
    target, prediction = target[labelled], prediction[labelled]
    bad = int(np.count_nonzero(~np.isfinite(prediction)))
    if bad:
        raise Phase2Error(
            f"{bad} of {target.size} predictions are not finite: the model has diverged; "
            "train with a smaller --lr"
        )
    train = _labels(train_targets)
    mad = float(np.abs(train - train.mean()).mean()) if train.size else None
    n = target.size
    if n == 0:
        return {
            "mae": None, "mae_se": None, "rmse": None, "r2": None, "n": 0, "mad": mad,
            "constant_mae": None,
        }  # fmt: skip
    error = prediction - target
    absolute = np.abs(error)
    varies = np.ptp(target) > 0
    spread = float(np.square(target - target.mean()).sum())
    return {
        "mae": float(absolute.mean()),
        "mae_se": float(absolute.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "rmse": float(np.sqrt(np.square(error).mean())),
        "r2": 1 - float(np.square(error).sum()) / spread if varies else None,
        "n": n,
        "mad": mad,
        "constant_mae": constant_mae(target, train),
    }


def metrics_by_property(
    properties: Sequence[str],
    predictions: ArrayLike,
    targets: ArrayLike,
    train_targets: ArrayLike,
) -> dict[str, PropertyMetrics]:
    """``property_metrics`` of each column; (N, P), (N, P) and (M, P) arrays, P properties."""
    predicted, wanted, train = (np.asarray(a) for a in (predictions, targets, train_targets))
    metrics = {}
    for column, name in enumerate(properties):
        try:
            metrics[name] = property_metrics(
                predicted[:, column], wanted[:, column], train[:, column]
            )
        except Phase2Error as error:
            raise Phase2Error(f"{name}: {error}") from None
    return metrics


def constant_mae(target: ArrayLike, train_targets: ArrayLike) -> float | None:
    """MAE of the constant predictor, the training median; None without labels."""
    target, train = _labels(target), _labels(train_targets)
    if not (target.size and train.size):
        return None
    return float(np.abs(target - np.median(train)).mean())


def score(metrics: Mapping[str, PropertyMetrics]) -> float:
    """Mean over properties of MAE / MAD, lower is better; chooses the best checkpoint.

    A property without labels is left out, and so is one whose training labels are all equal
    (MAD 0). Where all are (a single training crystal), it is the mean MAE. Some property has a
    label: the trainer refuses a val split without one.
    """
    pairs = [(m["mae"], m["mad"]) for m in metrics.values()]
    relative = [mae / mad for mae, mad in pairs if mae is not None and mad]
    plain = [mae for mae, _ in pairs if mae is not None]
    chosen = relative or plain
    return sum(chosen) / len(chosen)


def metrics_table(
    metrics: Mapping[str, PropertyMetrics],
    units: Mapping[str, str],
) -> str:
    """One split's metrics as an aligned table, beside the constant predictor's MAE.

    units: by property.
    """
    header = ("property", "unit", "n", "MAE ± SE", "RMSE", "R2", "constant MAE", "MAE/MAD")
    rows = [
        [
            name,
            units.get(name) or tables.ABSENT,
            str(m["n"]),
            tables.with_error(m["mae"], m["mae_se"]),
            tables.number(m["rmse"]),
            tables.ABSENT if m["r2"] is None else f"{m['r2']:.3f}",
            tables.number(m["constant_mae"]),
            f"{m['mae'] / m['mad']:.3f}" if m["mae"] is not None and m["mad"] else tables.ABSENT,
        ]
        for name, m in metrics.items()
    ]
    return tables.aligned(header, rows, left=2)


def write_metrics(
    run: RunDirectory,
    metrics: Mapping[str, Mapping[str, PropertyMetrics]],
    units: Mapping[str, str],
) -> None:
    """Write metrics.json, ``{"val": {...}, "test": {...}}``, and the same as metrics.csv, with
    the units by property."""
    if set(metrics) != set(SPLITS):
        raise ValueError(f"metrics of {sorted(metrics)}, not of {SPLITS}")
    ordered = {split: dict(metrics[split]) for split in SPLITS}
    text = io.StringIO()
    columns = list(PropertyMetrics.__annotations__)
    writer = csv.DictWriter(text, ["split", "property", "unit", *columns], lineterminator="\n")
    writer.writeheader()
    for split, by_property in ordered.items():
        for name, m in by_property.items():
            row: dict[str, Any] = {
                "split": split,
                "property": name,
                "unit": units.get(name, ""),
                **m,
            }
            writer.writerow(row)
    write_atomically(run.metrics_json, json.dumps(ordered, indent=2, allow_nan=False) + "\n")
    write_atomically(run.metrics_csv, text.getvalue())


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _labels(values: ArrayLike) -> NDArray[np.float64]:
    vector = _vector(values)
    return vector[~np.isnan(vector)]
