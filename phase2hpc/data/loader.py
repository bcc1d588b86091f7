"""Batches of tensors from a store or from graphs in memory.

A batch has the fields of a torch_geometric ``Data``. It is collated from slices of flat arrays,
which is 10 times faster than ``Batch.from_data_list``. Edge vectors are computed by the model:
``pos[sender] + edge_shift @ cell[batch] - pos[receiver]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.device_arrays import DeviceArrays, PaddedBatch, fits_on
from phase2hpc.data.graph_arrays import GraphArrays, concatenate
from phase2hpc.data.padding import PaddedShapes
from phase2hpc.data.sampler import Indices, Sampler, partition_by_window
from phase2hpc.data.store.reader import Store

NUMPY_DTYPE = {torch.float32: np.float32, torch.float64: np.float64}
# A store larger than one window is shuffled within windows and among them, also if it is in
# memory: the order must not depend on free memory, or a run that is resumed on another node would
# see other batches.
WINDOW_BYTES = 1 << 28
# A batch may span two windows.
WINDOWS_IN_MEMORY = 2


def collate(
    arrays: GraphArrays,
    indices: Sequence[int] | npt.NDArray[np.integer],
    properties: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    *,
    weight: npt.NDArray[np.float32] | None = None,
    index: npt.NDArray[np.int64] | None = None,
) -> CrystalData:
    """A batch of the graphs ``indices``, in this order.

    properties: columns of ``y``, NaN where the arrays have no such labels. dtype: float32 or
    float64, of all real tensors. weight: weights of the crystals, by default 1. index: the field
    ``index`` of the batch, by default ``indices``.
    """
    real = NUMPY_DTYPE[dtype]
    chosen = np.asarray(indices, dtype=np.int64)
    nodes, node_counts = _rows(arrays.node_table, arrays.node_ptr, chosen)
    edges, edge_counts = _rows(arrays.edge_table, arrays.edge_ptr, chosen)
    ptr = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(node_counts, out=ptr[1:])
    edge_index = np.empty((2, len(edges)), dtype=np.int64)
    edge_index[:] = edges[:, :2].T
    edge_index += np.repeat(ptr[:-1], edge_counts)
    # By column: casting rows of three is three times slower.
    shift = np.empty((len(edges), 3), dtype=real)
    for axis in range(3):
        shift[:, axis] = edges.view(np.int8)[:, 4 + axis]

    data = CrystalData(
        z=torch.from_numpy(nodes[:, 3].astype(np.int64)),
        pos=torch.from_numpy(nodes[:, :3].astype(real)),
        cell=torch.from_numpy(arrays.lattice[chosen].astype(real)),
        edge_index=torch.from_numpy(edge_index),
        edge_shift=torch.from_numpy(shift),
        batch=torch.from_numpy(np.repeat(np.arange(len(chosen)), node_counts)),
        ptr=torch.from_numpy(ptr),
        y=torch.from_numpy(_labels(arrays, chosen, properties).astype(real, copy=False)),
        index=torch.from_numpy(chosen if index is None else index),
        weight=torch.ones(len(chosen), dtype=dtype)
        if weight is None
        else torch.from_numpy(weight.astype(real, copy=False)),
        electron_parity=torch.from_numpy(arrays.electron_parity(chosen).astype(np.int64)),
    )
    data.max_degree = int(arrays.max_degree[chosen].max(initial=0))
    return data


def to_device(batch: CrystalData, device: torch.device) -> CrystalData:
    """The batch on a device; a copy to a GPU goes on while the host does."""
    if device.type == "cuda" and not batch.pos.is_cuda:
        batch = batch.pin_memory()
    moved: CrystalData = batch.to(device, non_blocking=True)
    return moved


class Loader:
    """Iterator over the batches that remain in the sampler's epoch.

    A store that is not in memory is read by windows, of which ``WINDOWS_IN_MEMORY`` are kept; its
    sampler must have the same windows. ``make_loader`` makes both.
    """

    def __init__(
        self,
        source: Store | GraphArrays,
        sampler: Sampler,
        properties: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.sampler = sampler
        self.properties = tuple(properties)
        self.dtype = dtype
        self._arrays = source if isinstance(source, GraphArrays) else source.arrays
        self._on_device: DeviceArrays | None = None
        self._shapes: PaddedShapes | None = None
        self._windows: _Windows | None = None
        if self._arrays is None:
            assert isinstance(source, Store)
            self._windows = _Windows(source, source.block_bounds(window_bytes))

    def keep_on(self, device: torch.device) -> None:
        """Make batches on a device from a copy of the graphs there, where they are in memory."""
        if self._on_device is not None and self._on_device.device == device:
            return
        if self._arrays is not None and not self.properties:
            self._on_device = DeviceArrays(self._arrays, device, self.dtype)

    def keep_on_gpu(self, device: torch.device) -> None:
        """As ``keep_on``, for a GPU whose memory is large enough."""
        if device.type == "cuda" and self._arrays is not None and fits_on(device, self._arrays):
            self.keep_on(device)

    @property
    def on_device(self) -> bool:
        """True where batches are made from a copy of the graphs on a device."""
        return self._on_device is not None

    def pad_to(self, shapes: PaddedShapes) -> None:
        """Pad the microbatches that are made on a device."""
        assert self._on_device is not None
        self._shapes = shapes

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[CrystalData]:
        for indices, weight in self.sampler:
            arrays, local = self._graphs(indices)
            yield self._collate(arrays, local, indices, weight)

    def microbatches(self, max_edges: int | None) -> Iterator[Iterator[CrystalData | PaddedBatch]]:
        """Iterate over batches, each split into microbatches of at most ``max_edges`` edges.

        None: no split. A crystal with more edges is a microbatch of its own.
        """
        for indices, weight in self.sampler:
            if self._shapes is not None and self._on_device is not None:
                yield iter([self._on_device.padded(indices, weight, self._shapes)])
                continue
            arrays, local = self._graphs(indices)
            edges = arrays.edge_ptr[local + 1] - arrays.edge_ptr[local]
            yield (
                self._collate(arrays, local[rows], indices[rows], weight[rows])
                for rows in _split_by_size(edges, max_edges)
            )

    def _graphs(self, indices: Indices) -> tuple[GraphArrays, Indices]:
        """Arrays that contain these crystals, and their indices in them."""
        if self._arrays is not None:
            return self._arrays, indices
        assert self._windows is not None
        return self._windows.take(indices), np.arange(len(indices))

    def _collate(
        self,
        arrays: GraphArrays,
        local: Indices,
        index: Indices,
        weight: npt.NDArray[np.float32],
    ) -> CrystalData:
        if self._on_device is not None:
            return self._on_device.collate(index, weight)
        return collate(arrays, local, self.properties, self.dtype, weight=weight, index=index)


def _split_by_size(sizes: Indices, max_size: int | None) -> Iterator[slice]:
    """Split into consecutive rows of total size at most ``max_size``, at least one row each."""
    begin, total = 0, 0
    for row, size in enumerate(sizes.tolist()):
        if max_size is not None and row > begin and total + size > max_size:
            yield slice(begin, row)
            begin, total = row, 0
        total += size
    yield slice(begin, len(sizes))


def make_loader(
    source: Store | GraphArrays,
    indices: npt.ArrayLike,
    properties: Sequence[str] = (),
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world_size: int = 1,
    window_bytes: int = WINDOW_BYTES,
) -> Loader:
    """A loader with its sampler; without ``shuffle`` the indices keep their order.

    batch_size: size of the global batch, over all ranks. window_bytes: a larger store is shuffled
    within windows of this size and among them.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    windows = None
    if isinstance(source, Store):
        parts = partition_by_window(chosen, source.block_bounds(window_bytes))
        windows = parts if len(parts) > 1 else None
    sampler = Sampler(
        chosen,
        batch_size,
        seed=seed,
        shuffle=shuffle,
        rank=rank,
        world_size=world_size,
        windows=windows,
    )
    return Loader(source, sampler, properties, dtype, window_bytes)


class _Windows:
    """LRU cache of windows of a store that is not in memory."""

    def __init__(self, store: Store, bounds: Indices) -> None:
        self._store = store
        self._bounds = bounds
        self._held: dict[int, GraphArrays] = {}

    def take(self, indices: Indices) -> GraphArrays:
        """The graphs with these indices, in this order."""
        window = np.searchsorted(self._bounds, indices, side="right") - 1
        parts, places = [], []
        for number in dict.fromkeys(window.tolist()):
            where = np.flatnonzero(window == number)
            parts.append(self._window(number).take(indices[where] - self._bounds[number]))
            places.append(where)
        joined = concatenate(parts)
        return joined if len(parts) == 1 else joined.take(np.argsort(np.concatenate(places)))

    def _window(self, number: int) -> GraphArrays:
        arrays = self._held.pop(number, None)
        if arrays is None:
            while len(self._held) >= WINDOWS_IN_MEMORY:
                del self._held[next(iter(self._held))]
            arrays = self._store.read_block(
                int(self._bounds[number]), int(self._bounds[number + 1])
            )
        self._held[number] = arrays
        return arrays


def _rows(
    table: npt.NDArray[Any], ptr: npt.NDArray[np.int64], chosen: Indices
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Concatenated rows of the chosen crystals, and their counts."""
    begin, end = ptr[chosen], ptr[chosen + 1]
    # Four times faster than np.concatenate of many small arrays.
    memory = table.data
    joined = b"".join([memory[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)])
    return np.frombuffer(joined, dtype=table.dtype).reshape(-1, table.shape[1]), end - begin


def _labels(
    arrays: GraphArrays, chosen: Indices, properties: Sequence[str]
) -> npt.NDArray[np.float32]:
    y = np.full((len(chosen), len(properties)), np.nan, dtype=np.float32)
    for column, name in enumerate(properties):
        if name in arrays.labels:
            y[:, column] = arrays.labels[name][chosen]
    return y
