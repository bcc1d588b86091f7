"""Labelled crystals of a store that a model is evaluated on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.readers.labels import renamed
from phase2hpc.data.readers.registry import describe
from phase2hpc.data.splits import SPLITS
from phase2hpc.data.store.raw_crystals import raw_crystals
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import verify_once
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import RunDirectory

log = logging.getLogger(__name__)

ALL = "all"
# Crystals of a split in the words of a warning: what the model knows of them.
KNOWN = {
    "train": "the model has learned these crystals",
    "val": "the model's epoch was chosen, and its sigma calibrated, on these crystals",
    ALL: "the model has learned most of these crystals",
}


def is_store(source: str) -> bool:
    """True for an HDF5 file, the only kind of source that is one."""
    return Path(source).is_file() and bool(h5py.is_hdf5(source))


def labelled_crystals(
    path: Path,
    split: str,
    names: Mapping[str, str],
    properties: Sequence[str],
    runs: Sequence[RunDirectory],
) -> Iterator[RawCrystal]:
    """Crystals of a split of a store, or of all, with a label of any of these properties.

    names: new names of label columns. runs: of the model; with their own store, their fold of it is
    used. Raises InputError for a damaged store, an unknown split, and where there is no such
    crystal.
    """
    if split not in (*SPLITS, ALL):
        raise InputError(f"--split {split}: choose {', '.join(SPLITS)} or {ALL}")
    verify_once(path)
    store = Store.open(path)
    own = [run for run in runs if _hash_of(run) == store.content_hash]
    folds = {run.read_config().fold for run in own}
    if len(folds) > 1:
        raise InputError(
            f"{path}: the models were trained on different folds of it, so that what one is tested "
            "on another has learned: evaluate them one by one"
        )
    store.use_fold(folds.pop() if folds else None)
    if own and split in KNOWN:
        log.warning("%s: %s", path.name, KNOWN[split])
    columns = [name for name in store.labels if names.get(name, name) in properties]
    chosen = np.zeros(len(store), dtype=bool)
    for name in columns:
        chosen |= np.isfinite(store.labels[name])
    if split != ALL:
        chosen &= store.split == SPLITS.index(split)
    if not chosen.any():
        there = ", ".join(store.labels) or "none"
        raise InputError(
            f"{path}: no crystal of split {split} has a label of {', '.join(properties)} (label "
            f"columns: {there}): choose another --split, or name a column by --rename "
            "COLUMN=PROPERTY"
        )
    return (
        replace(raw, labels=renamed(raw.labels, names, describe(path)))
        for raw in raw_crystals(store, chosen)
    )


def _hash_of(run: RunDirectory) -> str | None:
    return run.read_manifest().store_hash if run.manifest.exists() else None
