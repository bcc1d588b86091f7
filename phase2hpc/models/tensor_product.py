"""Tensor products of neighbour features with constant edge geometry, as batched matrix products.

A property model needs no forces, so the geometry of a batch is constant: spherical harmonics,
Clebsch-Gordan coefficients and radial functions are combined once per batch into one operator
per atom and degree l, shared by all layers, and a message passing step is a batched matrix product
of it with the senders' features:

    A[i, m3, (k, l2), u] = sum over edges j and m1 of G[i, m3, (k, l2), (j, m1)] h[j, m1, u]
    G[i, m3, (k, l2), (j, m1)] = R_k(r_ij) sum over m2 of CG[l1 m1, l2 m2, l3 m3] Y[l2 m2](r_ij)

Radial and channel mixing then act per atom, as one matrix product (k, l2, u) -> v. This equals
e3nn's fully connected ('uvw') tensor product with per-edge weights w[p, u, v](r) = sum_k
R_k(r) W[k, p, u, v] (tests/models/test_equivariant.py), at none of its per-edge cost.

Geiger and Smidt, e3nn (arXiv:2207.09453).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn
from torch_geometric.data import Data

from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.geometry import BesselBasis, GaussianBasis, edge_geometry
from phase2hpc.models.message_gate import MessageGate

# Features of degree l, by l: (N, 2l+1, channels). Components come before channels, so that every
# mixing of channels is one matrix product.
Features = dict[int, Tensor]


def sh_degrees(l_in: int, l_out: int, lmax: int) -> list[int]:
    """Degrees of the spherical harmonic that take l_in to l_out with natural parity (-1)^l."""
    low, high = abs(l_in - l_out), min(l_in + l_out, lmax)
    return [l for l in range(low, high + 1) if (l_in + l + l_out) % 2 == 0]


@dataclass
class Bucket:
    """Atoms of like degree: their neighbours in one rectangle, padded with zeros in the operators.

    start, stop: rows of the degree-sorted atoms. sender: (n * D,). operators: (l_in, l_out) ->
    (n, (2 l_out + 1) * K * paths, D * (2 l_in + 1)). gate_basis: Gaussians of the distances,
    (n, D, K_gate), where messages are gated.
    """

    start: int
    stop: int
    sender: Tensor
    operators: dict[tuple[int, int], Tensor]
    gate_basis: Tensor | None


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

    def __init__(
        self, lmax: int, basis_size: int, graph: GraphSettings, *, gate_basis_size: int = 0
    ) -> None:
        super().__init__()
        self.lmax, self.basis_size, self.graph = lmax, basis_size, graph
        self.basis = BesselBasis(basis_size, graph.cutoff)
        self.gate_basis = GaussianBasis(gate_basis_size, graph.cutoff) if gate_basis_size else None
        self.pairs = [(a, b) for a in range(lmax + 1) for b in range(lmax + 1)]
        for l_in, l_out in self.pairs:
            self.register_buffer(
                f"coupling_{l_in}_{l_out}", self._coupling(l_in, l_out), persistent=False
            )

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

    def forward(self, batch: Data, pairs: list[tuple[int, int]]) -> tuple[Tensor, list[Bucket]]:
        """The order of the atoms by falling degree, (N,), and the buckets that they fall into."""
        sender, receiver = batch.edge_index
        n = batch.num_nodes
        degree = torch.bincount(receiver, minlength=n)
        vector, length, weight = edge_geometry(batch, self.graph)
        radial = self.basis(length) * weight.unsqueeze(1)
        harmonics = o3.spherical_harmonics(
            list(range(self.lmax + 1)), vector, normalize=True, normalization="component"
        )
        order = torch.argsort(degree, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(n, device=order.device)
        first_edge = degree.cumsum(0) - degree
        sorted_degree = degree[order]
        bounds = bucket_bounds(sorted_degree.tolist())
        couplings = {
            (a, b): harmonics @ getattr(self, f"coupling_{a}_{b}").to(harmonics.dtype)
            for a, b in pairs
        }
        # One zero row past the end is what padding points to.
        radial = torch.cat([radial, radial.new_zeros(1, self.basis_size)])
        couplings = {k: torch.cat([v, v.new_zeros(1, v.shape[1])]) for k, v in couplings.items()}
        neighbor = torch.cat([rank[sender], rank.new_zeros(1)])
        # The operators of padding are zero, whatever its gate is.
        padded_length = torch.cat([length, length.new_zeros(1)])
        buckets, start = [], 0
        for stop in bounds:
            rows = order[start:stop]
            width = max(int(sorted_degree[start]), 1)
            slot = torch.arange(width, device=rows.device)
            edge = torch.where(
                slot < degree[rows].unsqueeze(1), first_edge[rows].unsqueeze(1) + slot, len(sender)
            ).flatten()
            r = radial[edge].view(stop - start, width, self.basis_size).transpose(1, 2)
            operators = {}
            for l_in, l_out in pairs:
                y = couplings[l_in, l_out][edge].view(
                    stop - start, width, 2 * l_out + 1, -1, 2 * l_in + 1
                )
                y = y.permute(0, 2, 3, 1, 4)  # (n, m_out, path, D, m_in)
                g = r[:, None, :, None, :, None] * y.unsqueeze(2)
                operators[l_in, l_out] = g.reshape(stop - start, -1, width * (2 * l_in + 1))
            gaussians = None
            if self.gate_basis is not None:
                gaussians = self.gate_basis(padded_length[edge]).view(stop - start, width, -1)
            buckets.append(Bucket(start, stop, neighbor[edge], operators, gaussians))
            start = stop
        return order, buckets


class Convolution(nn.Module):
    """Fully connected tensor product of the neighbours' features with the edges, summed per atom.

    channels_in, channels_out: number of channels by degree l = 0, 1, ... (0: it is absent).
    gate_basis_size: Gaussians of the gate on the senders' scalars; 0: none.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels_out: Sequence[int],
        lmax: int,
        basis_size: int,
        gate_basis_size: int = 0,
    ) -> None:
        super().__init__()
        self.gate = MessageGate(channels_in[0], gate_basis_size) if gate_basis_size else None
        self.channels_out = channels_out
        self.pairs = [
            (a, b)
            for b, n_out in enumerate(channels_out)
            for a, n_in in enumerate(channels_in)
            if n_in and n_out and sh_degrees(a, b, lmax)
        ]
        fan_in = {
            b: sum(
                basis_size * len(sh_degrees(a, b, lmax)) * channels_in[a]
                for a, c in self.pairs
                if c == b
            )
            for _, b in self.pairs
        }
        self.weight = nn.ParameterDict()
        for a, b in self.pairs:
            rows = basis_size * len(sh_degrees(a, b, lmax)) * channels_in[a]
            self.weight[f"{a}_{b}"] = nn.Parameter(
                torch.randn(rows, channels_out[b]) / math.sqrt(fan_in[b])
            )

    def forward(self, features: Features, buckets: list[Bucket]) -> Features:
        pieces: dict[int, list[Tensor]] = {b: [] for _, b in self.pairs}
        flat = {l: h.flatten(1) for l, h in features.items()}
        if self.gate is not None:
            gate_sender, gate_receiver = self.gate(flat[0])
        for bucket in buckets:
            n = bucket.stop - bucket.start
            gathered = {
                l: flat[l].index_select(0, bucket.sender).view(n, -1, features[l].shape[2])
                for l in {a for a, _ in self.pairs}
            }
            if self.gate is not None:
                assert bucket.gate_basis is not None
                gathered[0] = gathered[0] * self.gate.factors(
                    gate_sender.index_select(0, bucket.sender).view(n, -1, self.gate.channels),
                    gate_receiver[bucket.start : bucket.stop],
                    bucket.gate_basis,
                )
            total: dict[int, Tensor] = {}
            for a, b in self.pairs:
                collected = torch.bmm(bucket.operators[a, b], gathered[a]).view(n * (2 * b + 1), -1)
                weight = self.weight[f"{a}_{b}"]
                total[b] = (
                    collected @ weight
                    if b not in total
                    else torch.addmm(total[b], collected, weight)
                )
            for b, value in total.items():
                pieces[b].append(value.view(n, 2 * b + 1, -1))
        return {b: torch.cat(p) for b, p in pieces.items()}
