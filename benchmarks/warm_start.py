"""Small data sets from scratch and from the shipped model: test errors by set, start and seed.

python benchmarks/warm_start.py FOLDER [--seeds 3] [--epochs 30] [--sets NAME ...]

A second call goes on where the first was stopped. --seeds 1 --epochs 1 --sets number_density shows
in two minutes that it works. The labels are drawn from crystals of the sample's val split, which
the shipped model was not trained on, a fifth of them to choose the epoch; the errors are of
crystals of its test split.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resumable_run import trained

import phase2hpc
from phase2hpc.data.elements import atomic_number
from phase2hpc.runs.registry import read_metrics
from phase2hpc.utils import tables
from phase2hpc.utils.package_files import sample_source

Record = dict[str, Any]
MODEL = "e3nn-std"
MAX_TEST = 500


def number_density(record: Record) -> float:
    """Atoms in 1,000 cubic angstrom: a property that the shipped model was not trained on."""
    return 1000.0 * len(record["species"]) / abs(float(np.linalg.det(record["lattice"])))


def _label(field: str) -> Callable[[Record], float]:
    return lambda record: record["properties"].get(field, math.nan)


# (name of the column, label, number of labelled crystals to train on): a new property of the
# structure, one that the shipped model knows, and a new one of the calculation.
SETS: list[tuple[str, Callable[[Record], float], int]] = [
    ("number_density", number_density, 100),
    ("shear_modulus", _label("shear_modulus_gv"), 200),
    ("ehull_leaderboard", _label("ehull_leaderboard"), 400),
]
STARTS: dict[str, dict[str, Any]] = {
    "from scratch": {},
    "fine-tuned": {"init_from": MODEL},
    "encoder frozen": {"init_from": MODEL, "freeze": "encoder"},
}


def prepare(folder: Path, name: str, label: Callable[[Record], float], count: int) -> Path:
    """A store with ``count`` labelled crystals in train and val, and test crystals."""
    rng = np.random.default_rng(0)
    with gzip.open(sample_source(), "rt") as lines:
        records = [record for record in map(json.loads, lines) if record["split"] != "train"]
    chosen = []
    for split, limit in (("val", count + count // 4), ("test", MAX_TEST)):
        known = [r for r in records if r["split"] == split and math.isfinite(label(r))]
        known = [r for r in known if all(atomic_number(s) for s in r["species"])]
        drawn = rng.permutation(len(known))[:limit]
        for rank, index in enumerate(drawn.tolist()):
            record = dict(known[index], properties={name: label(known[index])})
            if split == "val" and rank < count:
                record["split"] = "train"
            chosen.append(record)
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in chosen))
    store = folder / f"{name}.h5"
    phase2hpc.prepare(source, store, split="column", workers=1)
    return store


def main() -> None:
    names = [name for name, _, _ in SETS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--sets", nargs="+", default=names, choices=names)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    shipped = phase2hpc.load_model(MODEL).runs[0].read_config().model.model_dump()
    rows = []
    for name, label, count in SETS:
        if name not in arguments.sets:
            continue
        store = prepare(arguments.folder, name, label, count)
        row = [name, str(count)]
        for start, options in STARTS.items():
            errors = []
            for seed in range(arguments.seeds):
                run = trained(
                    store, arguments.folder / "models",
                    f"{name}-{start.replace(' ', '-')}-epochs{arguments.epochs}-seed{seed}",
                    properties=[name], epochs=arguments.epochs, seed=seed, **options, **shipped,
                )  # fmt: skip
                metrics = (read_metrics(run) or {})["test"][name]
                errors.append(metrics["mae"])
                print(f"{name}, {start}, seed {seed}: {metrics['mae']:.4g}", flush=True)
            spread = np.std(errors, ddof=1) / math.sqrt(len(errors)) if len(errors) > 1 else None
            row.append(tables.with_error(float(np.mean(errors)), spread))
        row.append(tables.number(metrics.get("constant_mae")))
        rows.append(row)
    print(tables.markdown(["property", "training crystals", *STARTS, "constant"], rows))


if __name__ == "__main__":
    main()
