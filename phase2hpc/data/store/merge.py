"""Merge of several stores into one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phase2hpc.config.properties import ColumnSettings
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.split_counts import SplitCounts
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verified_cache import remember, state_of
from phase2hpc.data.store.verify import verify_once
from phase2hpc.data.store.writer import StoreWriter
from phase2hpc.data.straddling import StraddlingCompounds
from phase2hpc.errors import InputError


@dataclass(frozen=True)
class MergeSummary:
    """crystals: in the new store. added: from each store. duplicates: identical ones skipped."""

    path: Path
    crystals: int
    added: dict[str, int]
    duplicates: int
    content_hash: str

    def as_json(self) -> dict[str, Any]:
        """The fields of ``--json``."""
        return {**asdict(self), "path": str(self.path)}

    def lines(self) -> list[str]:
        """The summary as text."""
        parts = [f"  {count} crystals from {name}" for name, count in self.added.items()]
        skipped = f"  {self.duplicates} crystals that several stores contain, taken once"
        return [
            f"{self.path}: {self.crystals} crystals",
            *parts,
            *([skipped] if self.duplicates else []),
            f"  content hash {self.content_hash}",
        ]


def merge_stores(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> MergeSummary:
    """Write the crystals of these stores, one store after the other, to ``out``.

    Splits are kept. A crystal that two stores contain, with equal content, is taken once.
    Raises InputError where an id stands for two different crystals, where graph settings or
    precision differ, where ``out`` exists, and where a compound is in train in one store and in
    val or test in another (a leak that would understate their errors).
    """
    if len(paths) < 2:
        raise InputError("merging takes at least two stores")
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists: give another --store or remove it")
    for path in paths:
        verify_once(path)
    stores = [Store.open(path, budget=0) for path in paths]
    _check_equal_settings(stores)
    columns = _columns(stores)
    first = stores[0].info
    seen: dict[str, tuple[bytes, int]] = {}
    compounds = [StraddlingCompounds() for _ in stores]
    added = {str(store.path): 0 for store in stores}
    duplicates = 0
    counts = SplitCounts()
    names = [str(store.info.source.get("name", store.path.name)) for store in stores]
    source = {"name": ", ".join(names), "merged": names}
    preparation = {"merged": [store.content_hash for store in stores]}
    with StoreWriter(
        out,
        graph_settings=first.graph_settings,
        float64=first.float64,
        source=source,
        preparation=preparation,
    ) as writer:
        for number, store in enumerate(stores):
            for block in store.blocks():
                new = []
                for place in range(len(block)):
                    crystal = block.block(place, place + 1)
                    identifier, digest = crystal.id(0), _digest(crystal)
                    known, owner = seen.setdefault(identifier, (digest, number))
                    if owner == number:
                        new.append(place)
                    elif known == digest:
                        duplicates += 1
                    else:
                        raise InputError(
                            f"'{identifier}' is another crystal, or has other labels or another "
                            f"split, in {store.path} than in {stores[owner].path}: rename or "
                            "remove one of them and prepare its store again"
                        )
                added[str(store.path)] += len(new)
                kept = block if len(new) == len(block) else block.take(np.array(new))
                writer.append(kept)
                compounds[number].add(block)
                counts.add(kept)
        _check_compounds(compounds)
        digest_of_all = writer.finish({"kept": writer.crystals, **asdict(counts)}, columns)
    remember(state_of(out), digest_of_all)
    return MergeSummary(out, sum(added.values()), added, duplicates, digest_of_all)


def _check_compounds(by_store: Sequence[StraddlingCompounds]) -> None:
    """InputError for compounds that are in train and another split only because of the merge."""
    merged = StraddlingCompounds()
    for compounds in by_store:
        merged.merge(compounds)
    known = {formula for compounds in by_store for formula in compounds.found()}
    straddling = [formula for formula in merged.found() if formula not in known]
    if straddling:
        raise InputError(
            f"{len(straddling)} compounds, for example {straddling[0]}, are in train in one store "
            "and in val or test in another: prepare all sources together, or each with --split "
            "formula"
        )


def _check_equal_settings(stores: Sequence[Store]) -> None:
    first = stores[0].info
    for store in stores[1:]:
        mine, theirs = first.graph_settings.to_dict(), store.graph_settings.to_dict()
        different = [
            f"{key} {mine[key]} and {theirs[key]}" for key in mine if mine[key] != theirs[key]
        ]
        if first.float64 != store.info.float64:
            different.append("float32 and float64 coordinates")
        if different:
            raise InputError(
                f"{first.path} and {store.path} differ in {', '.join(different)}: prepare one "
                "of them again with the settings of the other"
            )


def _columns(stores: Sequence[Store]) -> dict[str, ColumnSettings]:
    """Settings of all label columns; InputError where two stores give different ones."""
    columns: dict[str, ColumnSettings] = {}
    owner: dict[str, Store] = {}
    for store in stores:
        for name, settings in store.info.columns.items():
            known = columns.setdefault(name, settings)
            other = owner.setdefault(name, store)
            different = [
                f"{key} {value} and {getattr(settings, key)}"
                for key, value in known
                if value != getattr(settings, key)
            ]
            if different:
                raise InputError(
                    f"column '{name}' differs in {other.path} and {store.path} "
                    f"({', '.join(different)}): prepare one of them again with --column or --rename"
                )
    return columns


def _digest(crystal: GraphArrays) -> bytes:
    """SHA-256 of one crystal with its graph, labels and split."""
    digest = hashlib.sha256()
    arrays = (crystal.atomic_number, crystal.frac_coords, crystal.lattice, crystal.sender)
    for array in (*arrays, crystal.receiver, crystal.image, crystal.split):
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(crystal.labels):
        value = crystal.labels[name]
        if not np.isnan(value).any():
            digest.update(f"{name}={value.tobytes().hex()}".encode())
    return digest.digest()
