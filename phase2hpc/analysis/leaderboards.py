"""Predictions of a run in the formats of public benchmarks: JARVIS-Leaderboard and matbench."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.errors import InputError
from phase2hpc.inference.labelled_predictions import LabelledPredictions
from phase2hpc.utils.atomic_io import write_atomically

# Of every file in an archive: equal predictions give equal archives.
_DATE = (1980, 1, 1, 0, 0, 0)
MATBENCH = "matbench_v0.1"
MATBENCH_FOLDS = 5
# Below this label a relative error is left out, as matbench does.
_SMALLEST_LABEL = 1e-5


def jarvis_files(table: LabelledPredictions, dataset: str = "dft_3d") -> dict[str, bytes]:
    """Contributions to the JARVIS-Leaderboard, by file name: a zipped CSV for each property.

    The columns are id, target and prediction; crystals without the label are left out. A column
    that is none of the nine properties has its own name in the file's.
    """
    files = {}
    for name in table.properties:
        known = PROPERTIES.get(name)
        field = known.jarvis_field if known else name
        target, prediction = table.target[name], table.prediction[name]
        rows = np.flatnonzero(np.isfinite(target) & np.isfinite(prediction)).tolist()
        if not rows:
            continue
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "target", "prediction"])
        writer.writerows([table.ids[i], f"{target[i]:.7g}", f"{prediction[i]:.7g}"] for i in rows)
        benchmark = f"AI-SinglePropertyPrediction-{field}-{dataset}-test-mae.csv"
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            entry = zipfile.ZipInfo(benchmark, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, text.getvalue())
        files[f"{benchmark}.zip"] = archive.getvalue()
    return files


def jarvis_metadata(model: str, description: str) -> dict[str, Any]:
    """metadata.json of a contribution; what only its authors know is empty."""
    return {
        "model_name": model,
        "project_url": "https://github.com/phase2hpc/phase2hpc",
        "team_name": "",
        "author_email": "",
        "date_submitted": "",
        "description": description,
        "software_used": ["phase2hpc"],
        "git_url": ["https://github.com/phase2hpc/phase2hpc"],
    }


def matbench_record(
    task: str, tables: Sequence[LabelledPredictions], parameters: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Record of a task of matbench v0.1, as its ``MatbenchTask.from_dict`` reads it.

    tables: test predictions of each of its five folds in order, of one property; parameters: of the
    model of each fold. Raises InputError for another number of folds, several properties, or
    crystals without a label or prediction.
    """
    if len(tables) != MATBENCH_FOLDS:
        raise InputError(
            f"matbench: {task} has {MATBENCH_FOLDS} folds, give the run of each in their order"
        )
    results = {}
    for number, (table, chosen) in enumerate(zip(tables, parameters, strict=True)):
        if len(table.properties) != 1:
            raise InputError("matbench: a task has one property: train with --properties NAME")
        (name,) = table.properties
        target, prediction = table.target[name], table.prediction[name]
        if not (np.isfinite(target) & np.isfinite(prediction)).all():
            raise InputError(f"matbench: fold {number}: crystals without a label or a prediction")
        error = np.abs(prediction - target)
        large = np.abs(target) > _SMALLEST_LABEL
        scores = {
            "mae": float(error.mean()),
            "rmse": float(np.sqrt(np.square(error).mean())),
            "mape*": float((error[large] / np.abs(target[large])).mean()) if large.any() else 0.0,
            "max_error": float(error.max()),
        }
        results[f"fold_{number}"] = {
            "data": dict(zip(table.ids, prediction.tolist(), strict=True)),
            "parameters": chosen,
            "scores": scores,
            "uncertainty": None,
        }
    return {
        "@module": "matbench.task",
        "@class": "MatbenchTask",
        "benchmark_name": MATBENCH,
        "dataset_name": task,
        "results": results,
    }


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, each completely or not at all."""
    for name, content in files.items():
        write_atomically(folder / name, content)


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
