"""Edge vectors, smooth edge weights, radial bases and pooling, shared by the encoders."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.graph import GraphSettings


def edge_vectors(batch: CrystalData) -> Tensor:
    """Vector from receiver to sender of every edge, (E, 3) in angstrom."""
    sender, receiver = batch.edge_index
    cell = batch.cell[batch.batch[receiver]]
    shift = torch.bmm(batch.edge_shift.to(cell.dtype).unsqueeze(1), cell).squeeze(1)
    vector: Tensor = batch.pos[sender] + shift - batch.pos[receiver]
    return vector


def degrees(batch: CrystalData) -> Tensor:
    """Number of neighbours of every atom, (N,); ``bincount`` would make a GPU wait."""
    receiver = batch.edge_index[1].contiguous()
    atoms = torch.arange(batch.num_nodes + 1, device=receiver.device)
    return torch.searchsorted(receiver, atoms).diff()


def edge_geometry(batch: CrystalData, graph: GraphSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (E, 3) and lengths (E,) in angstrom, and smooth weights (E,) of a batch's edges."""
    vector = edge_vectors(batch)
    length = vector.norm(dim=1)
    weight = neighbor_weights(
        length,
        batch.edge_index[1],
        degrees(batch),
        batch.max_degree,
        cutoff=graph.cutoff,
        max_neighbors=graph.max_neighbors,
        shell_width=graph.shell_width,
    )
    return vector, length, weight


def smooth_step(x: Tensor) -> Tensor:
    """1 for x <= 0, 0 for x >= 1, with two continuous derivatives between."""
    x = x.clamp(0.0, 1.0)
    return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def neighbor_weights(
    length: Tensor,
    receiver: Tensor,
    degree: Tensor,
    max_degree: int,
    *,
    cutoff: float,
    max_neighbors: int | None,
    shell_width: float,
) -> Tensor:
    """Weight of every edge, (E,), that vanishes where the receiver's neighbour list ends.

    length (E,) angstrom, receiver (E,) sorted, degree (N,) and its maximum. An edge falls from 1
    to 0 between the receiver's k-th neighbour and ``shell_width`` beyond it, and over the last
    fifth of the cutoff.
    Hence no prediction jumps when a neighbour enters or leaves the list, and tied neighbours
    count alike, in whatever order they come.
    """
    weight = smooth_step((length / cutoff - 0.8) / 0.2)
    if max_neighbors is None or max_degree < max_neighbors:
        return weight
    start = degree.cumsum(0) - degree
    slot = torch.arange(len(length), device=length.device) - start[receiver]
    table = length.new_full((len(degree), max_degree), math.inf)
    table[receiver, slot] = length
    if table.is_cuda:
        # As fast there, and kthvalue is refused where deterministic algorithms are asked for.
        kth = table.sort(dim=1).values[:, max_neighbors - 1]
    else:
        kth = table.kthvalue(max_neighbors, dim=1).values
    beyond = (length - kth[receiver]) / shell_width
    return weight * smooth_step(beyond)


class BesselBasis(torch.nn.Module):
    """The K lowest spherical Bessel functions of order 0 on [0, cutoff]: (E,) -> (E, K).

    Gasteiger et al., ICLR 2020 (arXiv:2003.03123), equation 7; no envelope.
    """

    frequencies: Tensor

    def __init__(self, size: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer(
            "frequencies", torch.arange(1, size + 1) * (math.pi / cutoff), persistent=False
        )

    def forward(self, length: Tensor) -> Tensor:
        frequencies = self.frequencies.to(length.dtype)
        scale = math.sqrt(2.0 / self.cutoff)
        return scale * torch.sin(length.unsqueeze(1) * frequencies) / length.unsqueeze(1)


class GaussianBasis(torch.nn.Module):
    """K Gaussians with evenly spaced centres on [0, cutoff]: (E,) -> (E, K).

    The edge feature of CGCNN: Xie and Grossman, PRL 120, 145301 (2018).
    """

    centers: Tensor

    def __init__(self, size: int, cutoff: float) -> None:
        super().__init__()
        self.width = cutoff / (size - 1)
        self.register_buffer("centers", torch.linspace(0.0, cutoff, size), persistent=False)

    def forward(self, length: Tensor) -> Tensor:
        return torch.exp(
            -(((length.unsqueeze(1) - self.centers.to(length.dtype)) / self.width) ** 2)
        )


def mean_over_atoms(values: Tensor, batch: Tensor, ptr: Tensor) -> Tensor:
    """Mean over the atoms of each crystal: (N, F) -> (B, F). Intensive: a supercell gives the same.

    batch (N,): the crystal of each atom. ptr (B + 1,): where each crystal's atoms begin.
    """
    total = values.new_zeros(len(ptr) - 1, values.shape[1]).index_add(0, batch, values)
    return total / (ptr[1:] - ptr[:-1]).to(values.dtype).unsqueeze(1)
