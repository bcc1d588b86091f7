"""Test errors of runs as a Markdown table, beside single-task CGCNN and the constant predictor.

python benchmarks/accuracy.py RUN [RUN ...]     RUN: directories of finished runs
"""

from __future__ import annotations

import sys
from pathlib import Path

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.store.reader import Store
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.metrics import constant_mae
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import default_store

# Test MAE and standard error of plain single-task CGCNNs (Adam, MSE, best epoch by val) on the same
# split. The figures were given with the project's design; the code is not in this repository.
SINGLE_TASK_CGCNN = {
    "formation_energy": (0.0596, 0.002),
    "band_gap": (0.276, 0.015),
    "band_gap_mbj": (0.4781, 0.039),
    "bulk_modulus": (15.61, 1.5),
    "shear_modulus": (13.3, 1.2),
    "ehull": (0.0431, 0.0031),
    "spillage": (0.4419, 0.023),
    "dielectric": (38.73, 19.0),
    "piezoelectric": (11.15, 3.8),
}


def main() -> None:
    runs = [RunDirectory(Path(path)) for path in sys.argv[1:]]
    metrics = [read_metrics(run) for run in runs]
    store = Store.open(default_store())
    train, test = store.split_indices("train"), store.split_indices("test")
    header = ["property", "unit", "train / test", "constant", "single-task CGCNN"]
    header += [run.read_manifest().algorithm for run in runs]
    rows = []
    for name, known in PROPERTIES.items():
        labels = store.labels[name]
        counts = [int((labels[part] == labels[part]).sum()) for part in (train, test)]
        row = [name, known.unit or tables.ABSENT, f"{counts[0]:,} / {counts[1]:,}"]
        row.append(tables.number(constant_mae(labels[test], labels[train])))
        row.append(tables.with_error(*SINGLE_TASK_CGCNN[name]))
        for run, found in zip(runs, metrics, strict=True):
            if found is None:
                sys.exit(f"{run.path}: no metrics yet")
            value = found["test"].get(name, {})
            row.append(tables.with_error(value.get("mae"), value.get("mae_se")))
        rows.append(row)
    print(tables.markdown(header, rows, left=2))


if __name__ == "__main__":
    main()
