"""A trained model's predictions in physical units: one code for validation, test and predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.elements import MAX_ATOMIC_NUMBER
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.loader import collate
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.out_of_memory import naming_the_batch
from phase2hpc.models.multitask import MultiTaskModel
from phase2hpc.training.target_scaler import TargetScaler

# Bounds of an evaluation batch: its operators take memory by atom, so atoms are what is limited.
ATOMS_A_BATCH = 1024
CRYSTALS_A_BATCH = 64


def batches_by_size(
    arrays: GraphArrays, indices: npt.NDArray[np.int64], max_edges: int | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """Positions in ``indices`` as batches of bounded size, crystals of like size together.

    max_edges: of a batch; a crystal that has more by itself is a batch by itself.
    """
    sizes = arrays.node_ptr[indices + 1] - arrays.node_ptr[indices]
    edges = arrays.edge_ptr[indices + 1] - arrays.edge_ptr[indices]
    order = np.argsort(sizes, kind="stable")
    most_edges = math.inf if max_edges is None else max_edges
    batch: list[int] = []
    atoms_here = edges_here = 0
    for position in order.tolist():
        atoms_here += int(sizes[position])
        edges_here += int(edges[position])
        full = atoms_here > ATOMS_A_BATCH or edges_here > most_edges
        if batch and (full or len(batch) == CRYSTALS_A_BATCH):
            yield np.array(batch)
            batch, atoms_here, edges_here = [], int(sizes[position]), int(edges[position])
        batch.append(position)
    if batch:
        yield np.array(batch)


@torch.inference_mode()
def predict(
    model: MultiTaskModel,
    scaler: TargetScaler,
    source: Store | GraphArrays,
    indices: npt.NDArray[np.int64],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    max_edges: int | None = None,
    before_each: Callable[[], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Predictions (n, P) in physical units, rows as in ``indices``; the model is in eval mode.

    max_edges: as of ``batches_by_size``. before_each: called before each batch; it may raise.
    """
    out = np.full((len(indices), len(scaler.properties)), np.nan)
    for arrays, first in _in_memory(source):
        here = np.flatnonzero((indices >= first) & (indices < first + len(arrays)))
        local = indices[here] - first
        for rows in batches_by_size(arrays, local, max_edges):
            if before_each is not None:
                before_each()
            batch = collate(arrays, local[rows], dtype=dtype).to(device)
            with naming_the_batch(batch):
                scaled = model(batch).to("cpu", torch.float64).numpy()
            out[here[rows]] = bounded(scaler.inverse(scaled), scaler.properties)
    return out


def compositions(
    source: Store | GraphArrays, indices: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Atomic fractions (n, Z) of crystals, the column an atomic number."""
    out = np.zeros((len(indices), MAX_ATOMIC_NUMBER + 1))
    for arrays, first in _in_memory(source):
        for row in np.flatnonzero((indices >= first) & (indices < first + len(arrays))):
            begin, end = arrays.node_ptr[indices[row] - first : indices[row] - first + 2]
            numbers = arrays.atomic_number[begin:end]
            out[row] = np.bincount(numbers, minlength=out.shape[1]) / len(numbers)
    return out


def _in_memory(source: Store | GraphArrays) -> Iterator[tuple[GraphArrays, int]]:
    """The graphs and the index of the first, in one piece where they are in memory anyway."""
    if isinstance(source, GraphArrays):
        yield source, 0
        return
    if source.arrays is not None:
        yield source.arrays, 0
        return
    first = 0
    for block in source.blocks():
        yield block, first
        first += len(block)


def bounded(values: npt.NDArray[np.float64], properties: Sequence[str]) -> npt.NDArray[np.float64]:
    """Predictions clipped to what is physical: a gap is not negative."""
    bounds = [PROPERTIES[p].lower_bound if p in PROPERTIES else None for p in properties]
    return np.maximum(values, [-np.inf if b is None else b for b in bounds])
