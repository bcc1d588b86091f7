"""Errors inside and outside the domain: elements and a structure family held out of training.

python benchmarks/domain.py FOLDER [--samples 3000] [--epochs 12] [--control]

Trains one e3nn model in FOLDER on the sample without crystals of the held-out elements and without
full Heusler compounds, and compares its errors on these with those on ordinary test crystals. With
--control also a second model alike on the whole sample, and the errors of both on the test
crystals of each kind: some kinds are easier than others, seen or not. A second call goes on where
the first was stopped. --samples 100 --epochs 1 shows in two minutes that it works.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import spglib
import torch
from resumable_run import trained

import phase2hpc
from phase2hpc.data.elements import atomic_number
from phase2hpc.inference.coverage import DEFAULT_COVERAGE
from phase2hpc.inference.error_model import MIN_LABELS
from phase2hpc.inference.prediction_table import Prediction
from phase2hpc.inference.predictor import Predictor
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import sample_source

ELEMENTS = ("Co", "Se", "Sr")
# AB2C, four atoms, Fm-3m.
HEUSLER = (225, [1, 1, 2])
# Groups of the test crystals, as the tables name them.
GROUPS = {
    "ordinary": "ordinary",
    "element": f"with {', '.join(ELEMENTS)}",
    "family": "full Heusler",
}
# Property and its field in the sample.
FIELDS = {
    "formation_energy": "formation_energy_peratom",
    "band_gap": "optb88vdw_bandgap",
    "bulk_modulus": "bulk_modulus_kv",
}
# Labels are single precision.
ROUNDING = 1e-6


Record = dict[str, Any]
Array = npt.NDArray[np.float64]


def group(record: Record) -> str:
    """ "element", "family" or "ordinary"."""
    if set(record["species"]) & set(ELEMENTS):
        return "element"
    counts = sorted(record["species"].count(symbol) for symbol in set(record["species"]))
    if counts == HEUSLER[1]:
        numbers = [atomic_number(symbol) for symbol in record["species"]]
        cell = (record["lattice"], record["frac_coords"], numbers)
        found = spglib.get_symmetry_dataset(cell, symprec=0.01)
        if found is not None and found.number == HEUSLER[0]:
            return "family"
    return "ordinary"


def prepare(folder: Path) -> tuple[Path, Path]:
    """The store to train on, and the crystals to test on."""
    train, test, store = (folder / name for name in ("train.jsonl", "test.jsonl", "train.h5"))
    with (
        gzip.open(sample_source(), "rt") as lines,
        train.open("w") as train_file,
        test.open("w") as test_file,
    ):
        for record in map(json.loads, lines):
            record["group"] = group(record)
            if record["group"] == "ordinary":
                train_file.write(json.dumps(record) + "\n")
            if record["group"] != "ordinary" or record["split"] == "test":
                test_file.write(json.dumps(record) + "\n")
    phase2hpc.prepare(train, store, workers=1)
    return store, test


def labels_of(records: list[Record], field: str) -> Array:
    return np.array([r["properties"].get(field, np.nan) for r in records], dtype=float)


def table(model: Predictor, rows: list[Prediction], records: list[Record]) -> str:
    """Errors and coverage of predictions by part of the crystals, whose records these are."""
    (calibration,) = model.calibrations
    assert calibration is not None
    known = np.array([row.status == "ok" for row in rows])
    outside = np.array([not row.in_domain for row in rows])
    far = calibration.embedding.distance(model.vectors(rows)) > calibration.embedding.limit
    groups = np.array([record["group"] for record in records])
    ordinary, element, family = (groups == name for name in ("ordinary", "element", "family"))
    parts = {
        "ordinary test crystals, inside": ordinary & ~outside,
        "ordinary test crystals, outside": ordinary & outside,
        f"held-out elements ({', '.join(ELEMENTS)}): outside": element,
        "of these, far from the training crystals too": element & far,
        "of these, near the training crystals": element & ~far,
        "held-out family (full Heusler), inside": family & ~outside,
        "held-out family (full Heusler), outside": family & outside,
    }
    cells = {name: [name, str(int((part & known).sum()))] for name, part in parts.items()}
    for name, field in FIELDS.items():
        target = labels_of(records, field)
        value, low, high = (
            np.array([getattr(row, kind).get(name, np.nan) for row in rows], dtype=float)
            for kind in ("values", "lows", "highs")
        )
        errors = np.abs(value - target)
        inside = (low <= target + ROUNDING) & (target - ROUNDING <= high)
        reference: float | None = None
        for part, mask in parts.items():
            labelled = mask & np.isfinite(errors)
            if (n := int(labelled.sum())) < MIN_LABELS:
                cells[part] += [tables.ABSENT] * 3
                continue
            mean = float(errors[labelled].mean())
            error = float(errors[labelled].std(ddof=1) / np.sqrt(n))
            reference = mean if reference is None else reference
            cells[part].append(tables.with_error(mean, error))
            cells[part].append(f"{mean / reference:.1f}")
            cells[part].append(f"{inside[labelled].mean():.2f} ({n})")
    header = ["crystals", "n"]
    for name in FIELDS:
        header += [f"{name} MAE", "times that inside", f"in {DEFAULT_COVERAGE:.0%} interval (n)"]
    return tables.markdown(header, list(cells.values()))


def control_table(held_out: list[Prediction], seen: list[Prediction], records: list[Record]) -> str:
    """Errors on test crystals by a model that has not seen their kind, and by one that has."""
    test = np.array([record["split"] == "test" for record in records])
    groups = np.array([record["group"] for record in records])
    lines = []
    for name, field in FIELDS.items():
        target = labels_of(records, field)
        errors = [
            np.abs(np.array([row.values.get(name, np.nan) for row in rows]) - target)
            for rows in (held_out, seen)
        ]
        for group_name, shown in GROUPS.items():
            known = test & (groups == group_name) & np.isfinite(errors).all(axis=0)
            if (n := int(known.sum())) < MIN_LABELS:
                continue
            out, control = (part[known] for part in errors)
            cells = [
                tables.with_error(float(x.mean()), float(x.std(ddof=1) / np.sqrt(n)))
                for x in (out, control, out - control)
            ]
            ratio = f"{out.mean() / control.mean():.2f}"
            lines.append([name, shown, str(n), *cells, ratio])
    header = ("property", "test crystals", "n", "MAE, held out", "MAE, control", "difference",
              "ratio")  # fmt: skip
    return tables.markdown(header, lines, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--control", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    store, source = prepare(arguments.folder)
    name, models = (
        f"samples{arguments.samples}-epochs{arguments.epochs}",
        arguments.folder / "models",
    )
    options: dict[str, Any] = {
        "properties": tuple(FIELDS), "epochs": arguments.epochs, "max_samples": arguments.samples,
        "lr": 2e-3, "batch_size": 32,
    }  # fmt: skip
    run = trained(store, models, name, **options)
    records = [json.loads(line) for line in source.read_text().splitlines()]
    model = phase2hpc.load_model(run, interval=DEFAULT_COVERAGE)
    rows = model.predict_all(str(source))
    print(table(model, rows, records), flush=True)
    if arguments.control:
        everything = arguments.folder / "all.h5"
        phase2hpc.prepare(sample_source(), everything, workers=1)
        control = phase2hpc.load_model(trained(everything, models, f"{name}-control", **options))
        print("\n" + control_table(rows, control.predict_all(str(source)), records))


if __name__ == "__main__":
    main()
