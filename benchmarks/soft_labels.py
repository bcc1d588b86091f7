"""Fill missing labels of training crystals with the mean prediction of models, to train another on.

python benchmarks/soft_labels.py joint.jsonl.gz joint.h5 RUN [RUN ...] OUT.jsonl.gz

joint.h5: the store of joint.jsonl.gz. RUN: directory of a run, a model of the ensemble that is
distilled; once more for twice the weight. A record of train gets a prediction of each of the seven
priority properties that it has no label of; records of val and test stay as they are. (Hinton et
al., arXiv:1503.02531) A gap below METAL is that of a metal, zero; a crystal that has none in the
Materials Project gets no other gap.

A run of the joint phase predicts what the Materials Project says, too: mp_formation_energy and
mp_gap. How wrong that is at a crystal, its predictions of CORRECTED are wrong there, about, and are
corrected by it. Where such runs are given, these properties are theirs, and the others those of the
other runs.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phase2hpc.config.properties import GROUPS, PROPERTIES
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.batched import infer
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.run_directory import RunDirectory

NAMES = GROUPS["priority7"]
GAPS = [PROPERTIES[name].jarvis_field for name in ("band_gap", "band_gap_mbj")]
METAL = 0.02  # eV
# The auxiliary property whose error corrects that of another.
CORRECTED = {
    "formation_energy": "mp_formation_energy",
    "band_gap": "mp_gap",
    "band_gap_mbj": "mp_gap",
}

Record = dict[str, Any]


def predictions(store: Store, rows: np.ndarray, path: Path) -> tuple[np.ndarray, bool]:
    """(n, 7) of the priority properties in physical units; whether CORRECTED are corrected."""
    best = TrainedModel.load(RunDirectory(path).weights)
    found = infer(best.model, store, rows, device=torch.device("cpu"))
    physical = best.scaler.physical_of_all(found.scaled)
    by_name = dict(zip(best.scaler.properties, physical.T, strict=True))
    corrected = set(CORRECTED.values()) <= by_name.keys()
    if corrected:
        for name, auxiliary in CORRECTED.items():
            missing = store.label_matrix([auxiliary], rows)[:, 0] - by_name[auxiliary]
            by_name[name] = by_name[name] + np.nan_to_num(missing)
    return np.stack([by_name[name] for name in NAMES], axis=1), corrected


def mean_predictions(store: Store, rows: np.ndarray, runs: list[Path]) -> np.ndarray:
    """(n, 7): of the runs that correct them, where there are any, else of all."""
    once = {path: predictions(store, rows, path) for path in dict.fromkeys(runs)}
    found = [once[path] for path in runs]
    corrected = [values for values, is_corrected in found if is_corrected]
    plain = [values for values, is_corrected in found if not is_corrected]
    mean = np.mean(plain or corrected, axis=0)
    if corrected:
        columns = [NAMES.index(name) for name in CORRECTED]
        mean[:, columns] = np.mean(corrected, axis=0)[:, columns]
    return mean


def with_soft_labels(record: Record, values: Sequence[float]) -> Record:
    """The record with these values of the properties NAMES where it has no label."""
    soft = {
        PROPERTIES[name].jarvis_field: round(value, 5)
        for name, value in zip(NAMES, values, strict=True)
    }
    metal = record["properties"].get("mp_gap", METAL) < METAL
    for name in GAPS:
        if soft[name] < METAL:
            soft[name] = 0.0
        elif metal:
            del soft[name]
    return record | {"properties": soft | record["properties"]}


def main() -> None:
    source, store_path, *runs, out = sys.argv[1:]
    torch.set_num_threads(1)
    store = Store.open(store_path)
    rows = store.split_indices("train")
    values = mean_predictions(store, rows, [Path(run) for run in runs])
    soft = dict(zip(store.ids(rows), values, strict=True))
    with gzip.open(source, "rt") as lines, gzip.open(out, "wt", compresslevel=3) as file:
        for record in map(json.loads, lines):
            if record["id"] in soft:
                record = with_soft_labels(record, soft[record["id"]].tolist())
            print(json.dumps(record), file=file)


if __name__ == "__main__":
    main()
