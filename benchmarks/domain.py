"""Errors inside and outside the domain: elements and a structure family held out of training.

python benchmarks/domain.py FOLDER [--samples 3000] [--epochs 12]

Trains one e3nn model in FOLDER on the sample without crystals of a held-out element and without
full Heusler compounds, and compares its errors on these with those on ordinary test crystals.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import spglib

import phase2hpc
from phase2hpc.data.elements import atomic_number
from phase2hpc.inference.error_model import MIN_LABELS
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import sample_source

ELEMENTS = ("Co", "Se", "Sr")
# AB2C, four atoms, Fm-3m.
HEUSLER = (225, [1, 1, 2])
PROPERTIES = ("formation_energy", "band_gap", "bulk_modulus")
FIELDS = ("formation_energy_peratom", "optb88vdw_bandgap", "bulk_modulus_kv")


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


def prepare(folder: Path) -> Path:
    """The store to train on; the crystals to test on are written to test.jsonl."""
    with (
        gzip.open(sample_source(), "rt") as lines,
        (folder / "train.jsonl").open("w") as train_file,
        (folder / "test.jsonl").open("w") as test_file,
    ):
        for record in map(json.loads, lines):
            record["group"] = group(record)
            if record["group"] == "ordinary":
                train_file.write(json.dumps(record) + "\n")
            if record["group"] != "ordinary" or record["split"] == "test":
                test_file.write(json.dumps(record) + "\n")
    phase2hpc.prepare(folder / "train.jsonl", folder / "train.h5", workers=1, overwrite=True)
    return folder / "train.h5"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--run", help="run of an earlier call in FOLDER: only tested")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source = arguments.folder / "test.jsonl"
    run = arguments.run
    if run is None:
        store = prepare(arguments.folder)
        run = phase2hpc.train(
            store, level="std", properties=PROPERTIES, models_dir=arguments.folder / "models",
            epochs=arguments.epochs, max_samples=arguments.samples, lr=2e-3, batch_size=32,
        )  # fmt: skip
    records = [json.loads(line) for line in source.read_text().splitlines()]
    model = phase2hpc.load_model(run)
    frame = model.predict(source)
    kept = (frame["status"] == "ok").to_numpy()
    groups = np.array([record["group"] for record in records])
    far = frame["reason"].str.contains("unlike the training").to_numpy()
    outside = ~frame["in_domain"].to_numpy()
    parts = {
        "ordinary test crystals, inside": (groups == "ordinary") & ~outside,
        "ordinary test crystals, outside": (groups == "ordinary") & outside,
        f"held-out elements ({', '.join(ELEMENTS)}): outside": groups == "element",
        "of these far from the training crystals too": (groups == "element") & far,
        "held-out family (full Heusler), inside": (groups == "family") & ~outside,
        "held-out family (full Heusler), outside": (groups == "family") & outside,
    }
    rows = []
    for name, rows_of in parts.items():
        cells = [name, str(int((rows_of & kept).sum()))]
        for property_name, field in zip(PROPERTIES, FIELDS, strict=True):
            target = np.array([r["properties"].get(field, np.nan) for r in records], dtype=float)
            known = rows_of & kept & np.isfinite(target)
            errors = np.abs(frame[property_name].to_numpy() - target)[known]
            inside = (frame[f"{property_name}_low"] <= target + 1e-6) & (
                target <= frame[f"{property_name}_high"] + 1e-6
            )
            if len(errors) < MIN_LABELS:
                cells += [tables.ABSENT, tables.ABSENT]
                continue
            error = float(errors.std(ddof=1) / np.sqrt(len(errors)))
            cells.append(tables.with_error(float(errors.mean()), error))
            cells.append(f"{inside.to_numpy()[known].mean():.2f}")
        rows.append(cells)
    header = ["crystals", "n"]
    for name in PROPERTIES:
        header += [f"{name} MAE", "in 90% interval"]
    print(tables.markdown(header, rows))


if __name__ == "__main__":
    main()
