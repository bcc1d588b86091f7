"""Graphs that stay on a device, and batches assembled there from their indices.

A batch then costs the copy of a few numbers per crystal; its arrays are never made on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.graph_arrays import GraphArrays
from phase2hpc.data.padding import PaddedShapes, Shape

# Of a GPU's memory; the rest is for the model and its activations. Not of what is free now: whether
# a run's steps are replayed from CUDA graphs must not depend on other processes.
MAX_SHARE_OF_MEMORY = 0.25
# Per node (position, atomic number) and per edge (two atoms, image), with float32.
_BYTES_PER_NODE, _BYTES_PER_EDGE = 13, 11
# Numbers of a batch per crystal.
_COLUMNS = 7


def fits_on(device: torch.device, arrays: GraphArrays) -> bool:
    """True where the graphs take a small part of a GPU's memory."""
    _, memory = torch.cuda.mem_get_info(device)
    needed = len(arrays.atomic_number) * _BYTES_PER_NODE + len(arrays.sender) * _BYTES_PER_EDGE
    return needed < MAX_SHARE_OF_MEMORY * memory


class DeviceArrays:
    """The arrays of a ``GraphArrays`` that batches need, on a device, without labels."""

    def __init__(self, arrays: GraphArrays, device: torch.device, dtype: torch.dtype) -> None:
        def moved(array: npt.NDArray[Any], kind: torch.dtype) -> Tensor:
            return torch.from_numpy(np.array(array)).to(device, kind)

        self.device = device
        self.arrays = arrays
        self.position = moved(arrays.node_table[:, :3], dtype)
        self.atomic_number = moved(arrays.atomic_number, torch.uint8)
        self.sender = moved(arrays.sender.astype(np.int32), torch.int32)
        self.receiver = moved(arrays.receiver.astype(np.int32), torch.int32)
        self.image = moved(arrays.image, torch.int8)
        self.lattice = moved(arrays.lattice, dtype)
        self.electron_parity = moved(arrays.electron_parity(np.arange(len(arrays))), torch.int8)

    def collate(
        self, indices: npt.NDArray[np.int64], weight: npt.NDArray[np.float32]
    ) -> CrystalData:
        """The batch that ``loader.collate`` makes of these graphs, bit by bit."""
        columns, atoms, edges = self._columns(indices, weight)
        totals = [len(indices), atoms, edges, 0]
        numbers = copied(np.concatenate([columns.ravel(), totals]), self.device)
        data = self.assemble(numbers, len(indices), atoms, edges)
        data.max_degree = int(self.arrays.max_degree[indices].max(initial=0))
        return data

    def padded(
        self,
        indices: npt.NDArray[np.int64],
        weight: npt.NDArray[np.float32],
        shapes: PaddedShapes,
    ) -> PaddedBatch:
        """A batch of these graphs in its shape, the padding behind them."""
        here, atoms, edges = self._columns(indices, weight)
        shape = shapes.of(indices, atoms, edges)
        columns = np.zeros((_COLUMNS, shape.crystals), dtype=np.int64)
        columns[:, : len(indices)] = here
        # Every crystal of padding has one atom, and the last the rest, with all edges.
        more = np.arange(shape.crystals - len(indices))
        columns[1, len(indices) :] = 1
        columns[3, len(indices) :] = atoms + more
        columns[1:3, -1] = shape.atoms - atoms - len(more) + 1, shape.edges - edges
        return PaddedBatch(self, shapes, shape, indices, weight, columns, atoms, edges)

    def _columns(
        self, indices: npt.NDArray[np.int64], weight: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], int, int]:
        """Numbers (7, B) that ``assemble`` needs of each crystal, and how many atoms and edges.

        Index, atoms, edges, first atom, what atoms and edges are shifted by between the batch and
        the store, and the weight.
        """
        node_ptr, edge_ptr = self.arrays.node_ptr, self.arrays.edge_ptr
        nodes = node_ptr[indices + 1] - node_ptr[indices]
        edges = edge_ptr[indices + 1] - edge_ptr[indices]
        first_node, first_edge = np.cumsum(nodes) - nodes, np.cumsum(edges) - edges
        columns = [
            indices, nodes, edges, first_node,
            node_ptr[indices] - first_node, edge_ptr[indices] - first_edge, weight,
        ]  # fmt: skip
        return np.stack(columns).astype(np.int64), int(nodes.sum()), int(edges.sum())

    def assemble(self, numbers: Tensor, crystals: int, atoms: int, edges: int) -> CrystalData:
        """The batch of so many crystals, atoms and edges, made on the device without waiting.

        numbers: on the device, the columns of all crystals, then how many crystals, atoms and edges
        there are without padding (and one that is not used here). An edge of padding leads to its
        own atom's image.
        """
        device, dtype = self.device, self.position.dtype
        columns = numbers[: _COLUMNS * crystals].view(_COLUMNS, crystals)
        chosen, nodes, edges_of, first_node, node_shift, edge_shift, weight = columns
        crystals_here, atoms_here, edges_here, _ = numbers[_COLUMNS * crystals :]
        crystal = torch.arange(crystals, device=device)
        batch = torch.repeat_interleave(crystal, nodes, output_size=atoms)
        atom = torch.arange(atoms, device=device)
        real = atom < atoms_here
        node = torch.where(real, atom + node_shift[batch], 0)
        owner = torch.repeat_interleave(crystal, edges_of, output_size=edges)
        slot = torch.arange(edges, device=device)
        real_edge = slot < edges_here
        edge = torch.where(real_edge, slot + edge_shift[owner], 0)
        begin = first_node[owner]
        missing = (edges - edges_here).clamp(min=1)
        own = atoms_here + (slot - edges_here) * (atoms - atoms_here) // missing
        ends = [torch.where(real_edge, e[edge] + begin, own) for e in (self.sender, self.receiver)]
        identity = torch.eye(3, dtype=dtype, device=device)
        return CrystalData(
            z=torch.where(real, self.atomic_number[node].long(), 1),
            pos=torch.where(real.unsqueeze(1), self.position[node], 0.0),
            cell=torch.where(
                (crystal < crystals_here)[:, None, None], self.lattice[chosen], identity
            ),
            edge_index=torch.stack(ends),
            edge_shift=torch.where(real_edge.unsqueeze(1), self.image[edge].to(dtype), 1.0),
            batch=batch,
            ptr=torch.nn.functional.pad(first_node, (0, 1), value=atoms),
            y=self.position.new_empty(crystals, 0),
            index=chosen,
            weight=weight.to(dtype),
            electron_parity=self.electron_parity[chosen].long(),
        )


@dataclass(frozen=True)
class PaddedBatch:
    """A batch in its shape, as a few numbers; its tensors are made where it is computed.

    columns: of ``DeviceArrays.assemble``, with the padding. num_nodes, num_edges: without it.
    """

    arrays: DeviceArrays
    shapes: PaddedShapes
    shape: Shape
    indices: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    columns: npt.NDArray[np.int64]
    num_nodes: int
    num_edges: int

    @property
    def num_graphs(self) -> int:
        """Number of crystals without the padding."""
        return len(self.indices)

    @property
    def largest(self) -> int:
        """Edges of the crystal with the most."""
        return int(self.columns[2, : len(self.indices)].max())

    @property
    def on_gpu(self) -> bool:
        return self.arrays.device.type == "cuda"

    def numbers(self, size: int) -> Tensor:
        """All that ``tensors`` needs of this batch; the last is ``size``."""
        totals = [len(self.indices), self.num_nodes, self.num_edges, size]
        return copied(np.concatenate([self.columns.ravel(), totals]), self.arrays.device)

    def tensors(self, numbers: Tensor) -> CrystalData:
        """The batch with these numbers, of this shape."""
        crystals, atoms, edges, wide = self.shape
        data = self.arrays.assemble(numbers, crystals, atoms, edges)
        data.max_degree, data.padded = self.shapes.degree, True
        data.widths = [(wide, self.shapes.degree)]
        if wide < atoms:
            data.widths.append((atoms, self.shapes.narrow))
        return data

    def unpadded(self) -> CrystalData:
        return self.arrays.collate(self.indices, self.weight)


def copied(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """On the device; the host does not wait for a copy from pinned memory."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
