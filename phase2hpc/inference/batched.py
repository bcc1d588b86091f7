"""Batched inference in physical units, for validation, test and prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.data.elements import MAX_ATOMIC_NUMBER
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.loader import NUMPY_DTYPE, collate, to_device
from phase2hpc.data.store.reader import Store
from phase2hpc.inference.out_of_memory import out_of_memory_errors
from phase2hpc.inference.symmetry_zeros import zero_by_symmetry
from phase2hpc.inference.target_scaler import TargetScaler
from phase2hpc.models.ensemble import with_vectors_of_each
from phase2hpc.models.multitask import MultiTaskModel

# Limits of a batch: the tensor-product operators take memory per atom.
MAX_BATCH_ATOMS = 1024
MAX_BATCH_CRYSTALS = 64
# A GPU waits for the launches of small batches.
TIMES_ON_GPU = 8


def batches_by_size(
    arrays: GraphArrays,
    indices: npt.NDArray[np.int64],
    max_edges: int | None = None,
    times: int = 1,
) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of limited size, as positions in ``indices``, crystals of similar size together.

    max_edges: of a batch; a single crystal with more is a batch of its own. times: factor on
    the limits of atoms and crystals.
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
        full = atoms_here > times * MAX_BATCH_ATOMS or edges_here > edge_limit
        if batch and (full or len(batch) == times * MAX_BATCH_CRYSTALS):
            yield np.array(batch)
            batch, atoms_here, edges_here = [], int(sizes[position]), int(edges[position])
        batch.append(position)
    if batch:
        yield np.array(batch)


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model for n crystals, row i for the i-th of them.

    scaled: (n, P) predictions of all its properties, on the scale of training. vectors: (n, F)
    output of the encoder, in the precision of the model. zero: (n, P) properties that symmetry
    makes zero.
    """

    scaled: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.floating]
    zero: npt.NDArray[np.bool_]

    def physical(self, scaler: TargetScaler) -> npt.NDArray[np.float64]:
        """Predictions (n, R) of the reported properties in physical units."""
        values = scaler.physical(self.scaled)
        values[self.zero[:, : values.shape[1]]] = 0.0
        return values


def infer(
    model: MultiTaskModel,
    source: Store | GraphArrays,
    indices: npt.NDArray[np.int64],
    **options: Any,
) -> Outputs:
    """Outputs of one model; arguments and options as of ``infer_each``."""
    (outputs,) = infer_each([model], source, indices, **options)
    return outputs


@torch.inference_mode()
def infer_each(
    models: Sequence[MultiTaskModel],
    source: Store | GraphArrays,
    indices: npt.NDArray[np.int64],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    max_edges: int | None = None,
    before_each: Callable[[int], None] | None = None,
) -> list[Outputs]:
    """Outputs of each model, in eval mode, in one pass over the graphs; rows as in ``indices``.

    max_edges: as of ``batches_by_size``. before_each: called before each batch with the number
    of crystals done; it may raise.
    """
    outputs = [_no_outputs(model, len(indices), dtype) for model in models]
    times = TIMES_ON_GPU if device.type == "cuda" else 1
    done = 0
    for arrays, first in graphs_in_memory(source):
        here = np.flatnonzero((indices >= first) & (indices < first + len(arrays)))
        local = indices[here] - first
        for rows in batches_by_size(arrays, local, max_edges, times):
            if before_each is not None:
                before_each(done)
            batch = to_device(collate(arrays, local[rows], dtype=dtype), device)
            with out_of_memory_errors(batch):
                results = with_vectors_of_each(models, batch)
                for model, out, (prediction, vector) in zip(models, outputs, results, strict=True):
                    # While a GPU computes.
                    out.zero[here[rows]] = zero_by_symmetry(arrays, local[rows], model.properties)
                    out.scaled[here[rows]] = prediction.to("cpu", torch.float64).numpy()
                    out.vectors[here[rows]] = vector.cpu().numpy()
            done += len(rows)
    return outputs


def _no_outputs(model: MultiTaskModel, count: int, dtype: torch.dtype) -> Outputs:
    scaled = np.full((count, len(model.properties)), np.nan)
    vectors = np.full((count, model.out_features), np.nan, NUMPY_DTYPE[dtype])
    return Outputs(scaled, vectors, np.zeros(scaled.shape, dtype=bool))


def compositions(
    source: Store | GraphArrays, indices: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Atomic fractions of crystals, (n, MAX_ATOMIC_NUMBER + 1), columns by atomic number."""
    out = np.zeros((len(indices), MAX_ATOMIC_NUMBER + 1))
    for arrays, first in graphs_in_memory(source):
        for row in np.flatnonzero((indices >= first) & (indices < first + len(arrays))):
            begin, end = arrays.node_ptr[indices[row] - first : indices[row] - first + 2]
            numbers = arrays.atomic_number[begin:end]
            out[row] = np.bincount(numbers, minlength=out.shape[1]) / len(numbers)
    return out


def graphs_in_memory(source: Store | GraphArrays) -> Iterator[tuple[GraphArrays, int]]:
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
