"""Graphs that stay on a device, and batches assembled there from their indices.

A batch then costs the copy of a few numbers per crystal; its arrays are never made on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.graph_arrays import GraphArrays

# Of a GPU's free memory; the rest is for the model and its activations.
MAX_SHARE_OF_MEMORY = 0.25
# Per node (position, atomic number) and per edge (two atoms, image), with float32.
_BYTES_PER_NODE, _BYTES_PER_EDGE = 13, 11


def fits_on(device: torch.device, arrays: GraphArrays) -> bool:
    """True where the graphs take a small part of a GPU's free memory."""
    free, _ = torch.cuda.mem_get_info(device)
    needed = len(arrays.atomic_number) * _BYTES_PER_NODE + len(arrays.sender) * _BYTES_PER_EDGE
    return needed < MAX_SHARE_OF_MEMORY * free


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

    def collate(
        self, indices: npt.NDArray[np.int64], weight: npt.NDArray[np.float32]
    ) -> CrystalData:
        """The batch that ``loader.collate`` makes of these graphs, bit by bit."""
        node_ptr, edge_ptr = self.arrays.node_ptr, self.arrays.edge_ptr
        node_counts = node_ptr[indices + 1] - node_ptr[indices]
        edge_counts = edge_ptr[indices + 1] - edge_ptr[indices]
        ptr = np.concatenate([[0], np.cumsum(node_counts)])
        edge_begin = np.cumsum(edge_counts) - edge_counts
        atoms, edges = int(ptr[-1]), int(edge_counts.sum())
        # What each crystal's rows are shifted by between the store and the batch.
        columns = [
            indices, node_counts, edge_counts, ptr[:-1],
            node_ptr[indices] - ptr[:-1], edge_ptr[indices] - edge_begin,
        ]  # fmt: skip
        chosen, nodes, edges_of, first_node, node_shift, edge_shift = self._copied(
            np.stack(columns)
        )
        crystals = torch.arange(len(indices), device=self.device)
        batch = torch.repeat_interleave(crystals, nodes, output_size=atoms)
        node = torch.arange(atoms, device=self.device) + node_shift[batch]
        owner = torch.repeat_interleave(crystals, edges_of, output_size=edges)
        edge = torch.arange(edges, device=self.device) + edge_shift[owner]
        begin = first_node[owner]
        dtype = self.position.dtype
        data = CrystalData(
            z=self.atomic_number[node].long(),
            pos=self.position[node],
            cell=self.lattice[chosen],
            edge_index=torch.stack([self.sender[edge] + begin, self.receiver[edge] + begin]),
            edge_shift=self.image[edge].to(dtype),
            batch=batch,
            ptr=self._copied(ptr),
            y=self.position.new_empty(len(indices), 0),
            index=chosen,
            weight=self._copied(weight).to(dtype),
        )
        data.max_degree = int(self.arrays.max_degree[indices].max(initial=0))
        return data

    def _copied(self, array: npt.NDArray[Any]) -> Tensor:
        """On the device; the host does not wait for a copy from pinned memory."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
