"""Errors inside and outside the domain: elements and a structure family held out of training.

python benchmarks/domain.py FOLDER [--samples 3000] [--epochs 12]

Trains one e3nn model in FOLDER on the sample without crystals of the held-out elements and without
full Heusler compounds, and compares its errors on these with those on ordinary test crystals. A
second call goes on where the first was stopped. --samples 100 --epochs 1 shows in two minutes that
it works.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import spglib
import torch
from resumable_run import trained

import phase2hpc
from phase2hpc.data.elements import atomic_number
from phase2hpc.inference.error_model import MIN_LABELS
from phase2hpc.inference.predictor import Predictor
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import sample_source

ELEMENTS = ("Co", "Se", "Sr")
# AB2C, four atoms, Fm-3m.
HEUSLER = (225, [1, 1, 2])
# Property and its field in the sample.
FIELDS = {
    "formation_energy": "formation_energy_peratom",
    "band_gap": "optb88vdw_bandgap",
    "bulk_modulus": "bulk_modulus_kv",
}
COVERAGE = 0.9
# Labels are single precision.
ROUNDING = 1e-6


def group(record: dict[str, Any]) -> str:
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


def table(model: Predictor, source: Path, records: list[dict[str, Any]]) -> str:
    """Errors and coverage by part of the crystals of ``source``, whose records these are."""
    rows = model.predict_all(str(source))
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
        target = np.array([r["properties"].get(field, np.nan) for r in records], dtype=float)
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
        header += [f"{name} MAE", "times that inside", f"in {COVERAGE:.0%} interval (n)"]
    return tables.markdown(header, list(cells.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    store, source = prepare(arguments.folder)
    run = trained(
        store, arguments.folder / "models", f"samples{arguments.samples}-epochs{arguments.epochs}",
        properties=tuple(FIELDS), epochs=arguments.epochs, max_samples=arguments.samples,
        lr=2e-3, batch_size=32,
    )  # fmt: skip
    records = [json.loads(line) for line in source.read_text().splitlines()]
    print(table(phase2hpc.load_model(run, interval=COVERAGE), source, records))


if __name__ == "__main__":
    main()
