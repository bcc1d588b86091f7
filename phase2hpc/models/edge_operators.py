"""Constant operators of a batch's edges, shared by all layers of the equivariant encoder.

Spherical harmonics, Clebsch-Gordan coefficients and radial functions, combined into one matrix per
atom and pair of degrees (``tensor_product``).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn

from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.geometry import BesselBasis, GaussianBasis, degrees, edge_geometry


def sh_degrees(l_in: int, l_out: int, lmax: int) -> list[int]:
    """Degrees of the spherical harmonic that take l_in to l_out with natural parity (-1)^l."""
    low, high = abs(l_in - l_out), min(l_in + l_out, lmax)
    return [l for l in range(low, high + 1) if (l_in + l + l_out) % 2 == 0]


class Bucket(NamedTuple):
    """Atoms of like degree, whose neighbours fill one rectangle.

    start, stop: rows of the degree-sorted atoms. first, last: their slots, ``stop - start`` times
    the width of the rectangle.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def atoms(self) -> int:
        return self.stop - self.start


@dataclass
class Operators:
    """The constant geometry of a batch: neighbours by slot, and operators by bucket and degrees.

    A slot is one place for a neighbour; a bucket of n atoms and width D has n * D of them, in the
    order of the atoms. Slots without a neighbour have zeros in the operators.

    sender: (T,), row of the neighbour in each slot, or the atom's own where there is none: if all
    were one row, a GPU would add up their zero gradients one after another. matrices: (l_in, l_out)
    -> for each bucket (n, (2 l_out + 1) * K * paths, D * (2 l_in + 1)). gate_basis: Gaussians of
    the distances, (T, K_gate), where messages are gated.
    """

    atoms: int
    buckets: list[Bucket]
    sender: Tensor
    matrices: dict[tuple[int, int], list[Tensor]]
    gate_basis: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrices, and of the contraction."""
        return next(iter(self.matrices.values()))[0].dtype

    def to(self, dtype: torch.dtype) -> Operators:
        """The same with matrices in another precision."""
        matrices = {pair: [g.to(dtype) for g in here] for pair, here in self.matrices.items()}
        return Operators(self.atoms, self.buckets, self.sender, matrices, self.gate_basis)


def bucket_bounds(sorted_degrees: list[int], smallest: int = 16) -> list[int]:
    """Ends of the buckets of atoms sorted by falling degree: a new one where padding passes 15%."""
    bounds, first = [], 0
    for i, degree in enumerate(sorted_degrees):
        if i - first >= smallest and degree < 0.85 * sorted_degrees[first]:
            bounds.append(i)
            first = i
    return [*bounds, len(sorted_degrees)]


class Geometry(nn.Module):
    """Batch -> degree-sorted atoms and their constant operators."""

    coupling: Tensor

    def __init__(
        self, lmax: int, basis_size: int, graph: GraphSettings, *, gate_basis_size: int = 0
    ) -> None:
        super().__init__()
        self.lmax, self.basis_size, self.graph = lmax, basis_size, graph
        # Buckets save arithmetic, of which a GPU has enough, by many more and smaller operations,
        # each of which a GPU waits for. None: on a CPU only.
        self.by_degree: bool | None = None
        self.basis = BesselBasis(basis_size, graph.cutoff)
        self.gate_basis = GaussianBasis(gate_basis_size, graph.cutoff) if gate_basis_size else None
        self.pairs = [(a, b) for a in range(lmax + 1) for b in range(lmax + 1)]
        tables = [self._coupling(l_in, l_out) for l_in, l_out in self.pairs]
        ends = list(itertools.accumulate(table.shape[1] for table in tables))
        # Columns of each pair in the joint table.
        self.columns = {
            pair: slice(end - table.shape[1], end)
            for pair, end, table in zip(self.pairs, ends, tables, strict=True)
        }
        self.register_buffer("coupling", torch.cat(tables, dim=1), persistent=False)

    def _coupling(self, l_in: int, l_out: int) -> Tensor:
        """Y of all degrees -> m_out, path, m_in: (sum of 2l+1, (2l_out+1) * paths * (2l_in+1))."""
        degrees = sh_degrees(l_in, l_out, self.lmax)
        table = torch.zeros(
            (self.lmax + 1) ** 2, 2 * l_out + 1, len(degrees), 2 * l_in + 1, dtype=torch.float64
        )
        for p, l in enumerate(degrees):
            cg = o3.wigner_3j(l_in, l, l_out, dtype=torch.float64) * math.sqrt(2 * l_out + 1)
            table[l * l : (l + 1) ** 2, :, p, :] = cg.permute(1, 2, 0)
        return table.flatten(1)

    def forward(self, batch: CrystalData, pairs: list[tuple[int, int]]) -> tuple[Tensor, Operators]:
        """The order of the atoms by falling degree, (N,), and their operators."""
        sender = batch.edge_index[0]
        n, edges = batch.num_nodes, len(sender)
        degree = degrees(batch)
        vector, length, weight = edge_geometry(batch, self.graph)
        radial = self.basis(length) * weight.unsqueeze(1)
        harmonics = o3.spherical_harmonics(
            list(range(self.lmax + 1)), vector, normalize=True, normalization="component"
        )
        coupled = harmonics @ self.coupling.to(harmonics.dtype)
        order = torch.argsort(degree, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(n, device=order.device)
        sorted_degree = degree[order]
        first_edge = (degree.cumsum(0) - degree)[order]
        # One zero row past the end is what slots without a neighbour point to. Their operators are
        # zero, whatever their gate is.
        radial = torch.cat([radial, radial.new_zeros(1, self.basis_size)])
        coupled = torch.cat([coupled, coupled.new_zeros(1, coupled.shape[1])])

        sender_row = torch.cat([rank[sender], rank.new_zeros(1)])
        own_row = torch.arange(n, device=order.device)
        buckets: list[Bucket] = []
        slots: list[Tensor] = []
        neighbors: list[Tensor] = []
        matrices: dict[tuple[int, int], list[Tensor]] = {pair: [] for pair in pairs}
        start = first = 0
        for stop, width in self._bounds(batch, sorted_degree):
            slot = torch.arange(width, device=order.device)
            taken = slot < sorted_degree[start:stop, None]
            edge = torch.where(taken, first_edge[start:stop, None] + slot, edges).flatten()
            own = own_row[start:stop, None]
            neighbors.append(torch.where(taken, sender_row[edge].view_as(taken), own).flatten())
            buckets.append(Bucket(start, stop, first, first + len(edge)))
            slots.append(edge)
            r = radial.index_select(0, edge).view(stop - start, width, -1)
            y = coupled.index_select(0, edge).view(stop - start, width, -1)
            for pair, g in self._matrices(r, y, pairs).items():
                matrices[pair].append(g)
            start, first = stop, first + len(edge)

        gaussians = None
        if self.gate_basis is not None:
            edge = torch.cat(slots)
            gaussians = self.gate_basis(torch.cat([length, length.new_zeros(1)])[edge])
        return order, Operators(n, buckets, torch.cat(neighbors), matrices, gaussians)

    def _bounds(self, batch: CrystalData, sorted_degree: Tensor) -> list[tuple[int, int]]:
        """End and width of each bucket."""
        by_degree = self.by_degree
        if by_degree is None:
            by_degree = sorted_degree.device.type == "cpu"
        if not by_degree:
            return batch.widths or [(len(sorted_degree), max(batch.max_degree, 1))]
        known = sorted_degree.tolist()
        stops = bucket_bounds(known)
        return [(stop, max(known[start], 1)) for start, stop in itertools.pairwise([0, *stops])]

    def _matrices(
        self, radial: Tensor, coupled: Tensor, pairs: list[tuple[int, int]]
    ) -> dict[tuple[int, int], Tensor]:
        """Operators of one bucket from radial functions (n, D, K) and coupled harmonics (n, D, M).

        (D, m_in) is one contiguous run of all factors, so that the product is written as fast as
        memory takes it.
        """
        n, width, k = radial.shape
        by_function = radial.transpose(1, 2)
        repeated: dict[int, Tensor] = {}
        out = {}
        for l_in, l_out in pairs:
            components = 2 * l_in + 1
            run = width * components
            if l_in not in repeated:
                expanded = by_function.unsqueeze(3).expand(n, k, width, components)
                repeated[l_in] = expanded.reshape(n, 1, k, 1, run)
            y = coupled[:, :, self.columns[l_in, l_out]].view(n, width, -1, components)
            y = y.transpose(1, 2).reshape(n, 2 * l_out + 1, 1, -1, run)
            g = torch.mul(y, repeated[l_in])
            out[l_in, l_out] = g.view(n, -1, run)
        return out
