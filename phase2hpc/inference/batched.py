"""Batched inference in physical units, for validation, test and prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.data.elements import MAX_ATOMIC_NUMBER
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.loader import collate, to_device
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.out_of_memory import out_of_memory_errors
from phase2hpc.inference.target_scaler import TargetScaler
from phase2hpc.models.multitask import MultiTaskModel

# Limits of a batch: the tensor-product operators take memory per atom.
MAX_BATCH_ATOMS = 1024
MAX_BATCH_CRYSTALS = 64


def batches_by_size(
    arrays: GraphArrays, indices: npt.NDArray[np.int64], max_edges: int | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of limited size, as positions in ``indices``, crystals of similar size together.

    max_edges: of a batch; a single crystal with more is a batch of its own.
    """
    sizes = arrays.node_ptr[indices + 1] - arrays.node_ptr[indices]
    edges = arrays.edge_ptr[indices + 1] - arrays.edge_ptr[indices]
    order = np.argsort(sizes, kind="stable")
    edge_limit = math.inf if max_edges is None else max_edges
    batch: list[int] = []
    atoms_here = edges_here = 0
    for position in order.tolist():
        atoms_here += int(sizes[position])
        edges_here += int(edges[position])
        full = atoms_here > MAX_BATCH_ATOMS or edges_here > edge_limit
        if batch and (full or len(batch) == MAX_BATCH_CRYSTALS):
            yield np.array(batch)
            batch, atoms_here, edges_here = [], int(sizes[position]), int(edges[position])
        batch.append(position)
    if batch:
        yield np.array(batch)


@torch.inference_mode()
def predict_graphs(
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
    """Predictions (n, R) of the reported properties in physical units, rows as in ``indices``.

    The model is in eval mode.

    max_edges: as of ``batches_by_size``. before_each: called before each batch; it may raise.
    """
    out = np.full((len(indices), len(scaler.reported)), np.nan)
    for arrays, first in _in_memory(source):
        here = np.flatnonzero((indices >= first) & (indices < first + len(arrays)))
        local = indices[here] - first
        for rows in batches_by_size(arrays, local, max_edges):
            if before_each is not None:
                before_each()
            batch = to_device(collate(arrays, local[rows], dtype=dtype), device)
            with out_of_memory_errors(batch):
                scaled = model(batch).to("cpu", torch.float64).numpy()
            out[here[rows]] = scaler.physical(scaled)
    return out


def compositions(
    source: Store | GraphArrays, indices: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Atomic fractions of crystals, (n, MAX_ATOMIC_NUMBER + 1), columns by atomic number."""
    out = np.zeros((len(indices), MAX_ATOMIC_NUMBER + 1))
    for arrays, first in _in_memory(source):
        for row in np.flatnonzero((indices >= first) & (indices < first + len(arrays))):
            begin, end = arrays.node_ptr[indices[row] - first : indices[row] - first + 2]
            numbers = arrays.atomic_number[begin:end]
            out[row] = np.bincount(numbers, minlength=out.shape[1]) / len(numbers)
    return out


def _in_memory(source: Store | GraphArrays) -> Iterator[tuple[GraphArrays, int]]:
    """Blocks of graphs with the index of their first; one block where all are in memory."""
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
