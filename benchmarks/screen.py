"""Queue of training runs that compare settings on folds of the sample's train and val crystals.

python benchmarks/screen.py FOLDER [GROUP ...]     GROUP: a key of GROUPS; all without one

Test crystals of the sample take no part: its train and val crystals are split anew into ten folds
by formula, and a run is tested on one of them. What has finished is not run again, what was
interrupted goes on. After each run the registry of all is written to benchmarks/screen.csv, and
at the end each group is compared with the paired differences of ``phase2hpc runs compare``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resumable_run import trained

import phase2hpc
from phase2hpc.config.properties import PROPERTIES
from phase2hpc.runs.registry import read_metrics
from phase2hpc.runs.run_directory import RunDirectory, family_folder
from phase2hpc.utils.package_files import sample_source

FOLDS = 10
# The recipe of all: what a group says is set over it.
RECIPE: dict[str, Any] = {"epochs": 12, "batch_size": 32, "lr": 2e-3, "weight_decay": 0.1}
SEVEN = list(PROPERTIES)[:7]
# The groups before "gaps" are of models without these.
BEFORE: dict[str, Any] = {"electron_parity": False, "one_sided_bounds": False}
FULL: dict[str, Any] = {"properties": SEVEN} | BEFORE
# As the presets are.
BOTH: dict[str, Any] = {"properties": SEVEN}
DECAY = BOTH | {"weight_decay": 0.3}
CGCNN: dict[str, Any] = {"algorithm": "cgcnn", "epochs": 20, "batch_size": 64, "lr": 1.5e-3}
# The first variant of a group is the one that the others are compared with. Groups share runs.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "encoder": {
        "full": FULL,
        "no_gate": FULL | {"gate_basis_size": 0},
        "plain": FULL | {"gate_basis_size": 0, "element_descriptors": False},
    },
    "loss": {"full": FULL, "absolute": FULL | {"huber_delta": 0.01}},
    "steps": {
        "full": FULL,
        "batch_16": FULL | {"batch_size": 16, "lr": 1.4e-3},
        "decay_0.3": FULL | {"weight_decay": 0.3},
    },
    "shape": {"full": FULL, "deep": FULL | {"channels": (48, 24, 12), "layers": 4}},
    "tasks": {"full": FULL, **{f"only_{name}": BEFORE | {"properties": [name]} for name in SEVEN}},
    "size": {
        "full": FULL,
        "small": FULL | {"preset": "small"},
        "large": FULL | {"preset": "large"},
    },
    "gaps": {
        "full": FULL,
        "one_sided": FULL | {"one_sided_bounds": True},
        "parity": FULL | {"electron_parity": True},
        "parity_one_sided": BOTH,
    },
    "regularisation": {
        "both_decay_0.3": DECAY,
        "parity_one_sided": BOTH,
        "decay_0.5": BOTH | {"weight_decay": 0.5},
        "basis_12": DECAY | {"basis_size": 12},
        "basis_6": DECAY | {"basis_size": 6},
        "basis_4": DECAY | {"basis_size": 4},
        "layers_4": DECAY | {"layers": 4},
        "dropout_0.2": DECAY | {"dropout": 0.2, "head_dropout": 0.2},
        "label_power_0.5": DECAY | {"label_weight_power": 0.5},
    },
    "epochs": {
        "both_decay_0.3": DECAY,
        "long": DECAY | {"epochs": 30, "batch_size": 64},
        "long_large": DECAY | {"epochs": 30, "batch_size": 64, "preset": "large"},
    },
    "cgcnn": {
        "cgcnn_full": CGCNN | {"properties": SEVEN},
        "cgcnn_only_formation_energy": CGCNN | {"properties": ["formation_energy"]},
    },
}


def prepare(folder: Path) -> Path:
    """The store of the sample's train and val crystals, with folds."""
    store = folder / "folds.h5"
    if not store.exists():
        source = folder / "folds.jsonl.gz"
        with gzip.open(sample_source(), "rt") as lines, gzip.open(source, "wt") as out:
            for line in lines:
                if json.loads(line)["split"] != "test":
                    out.write(line)
        phase2hpc.prepare(source, store, folds=FOLDS, workers=1)
    return store


def queue(groups: list[str], folds: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(variant, fold, settings) of all runs, each once, fold by fold."""
    variants = {name: options for group in groups for name, options in GROUPS[group].items()}
    for fold in range(1, folds + 1):
        for name, options in variants.items():
            yield name, fold, options


def run_id(variant: str, fold: int) -> str:
    return f"{variant}-{fold}"


def train(folder: Path, store: Path, variant: str, fold: int, options: dict[str, Any]) -> None:
    models = folder / "models"
    family = family_folder(options.get("algorithm", "e3nn"), "std")
    run = RunDirectory(models / family / f"run_{run_id(variant, fold)}")
    if run.path.exists() and read_metrics(run) is not None:
        return
    print(f"{variant}, fold {fold}", flush=True)
    trained(store, models, run_id(variant, fold), fold=fold, seed=fold, **RECIPE | options)


def phase2hpc_output(*words: str) -> str:
    command = [sys.executable, "-m", "phase2hpc", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("groups", nargs="*", metavar="GROUP", choices=[[], *GROUPS])
    parser.add_argument("--folds", type=int, default=3, help="folds to test on, of ten")
    arguments = parser.parse_args()
    groups = arguments.groups or list(GROUPS)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    store = prepare(arguments.folder)
    models = str(arguments.folder / "models")
    registry = str(Path(__file__).with_name("screen.csv"))
    for variant, fold, options in queue(groups, arguments.folds):
        train(arguments.folder, store, variant, fold, options)
        phase2hpc_output("runs", "list", "--models-dir", models, "--csv", registry)
    for group in groups:
        runs = [run_id(v, fold) for v in GROUPS[group] for fold in range(1, arguments.folds + 1)]
        print(f"\n## {group}\n")
        print(phase2hpc_output("runs", "compare", *runs, "--models-dir", models))


if __name__ == "__main__":
    main()
