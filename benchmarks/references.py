"""Reference implementations for the speed ratios, with the same shapes as ours."""

from __future__ import annotations

import torch
from e3nn import nn as e3nn_nn
from e3nn import o3
from torch import Tensor, nn
from torch_geometric.data import Data

from phase2hpc.data.elements import MAX_ATOMIC_NUMBER
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.geometry import (
    BesselBasis,
    GaussianBasis,
    edge_geometry,
    mean_over_atoms,
)


class FullyConnectedLayer(nn.Module):
    """e3nn's FullyConnectedTensorProduct, with weights per edge from a three-layer MLP."""

    def __init__(self, irreps_in: o3.Irreps, irreps_out: o3.Irreps, lmax: int, basis: int) -> None:
        super().__init__()
        scalars = o3.Irreps([(mul, ir) for mul, ir in irreps_out if ir.l == 0])
        gated = o3.Irreps([(mul, ir) for mul, ir in irreps_out if ir.l > 0])
        gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
        self.gate = e3nn_nn.Gate(
            scalars, [torch.nn.functional.silu], gates, [torch.sigmoid] * len(gates), gated
        )
        self.product = o3.FullyConnectedTensorProduct(
            irreps_in,
            o3.Irreps.spherical_harmonics(lmax),
            self.gate.irreps_in,
            shared_weights=False,
        )
        self.radial = e3nn_nn.FullyConnectedNet(
            [basis, 128, 128, self.product.weight_numel], torch.nn.functional.silu
        )
        self.irreps_out = self.gate.irreps_out

    def forward(self, x: Tensor, edge_index: Tensor, harmonics: Tensor, radial: Tensor) -> Tensor:
        sender, receiver = edge_index
        message = self.product(x[sender], harmonics, self.radial(radial))
        total = message.new_zeros(len(x), message.shape[1]).index_add(0, receiver, message)
        return self.gate(total)


class FullyConnectedModel(nn.Module):
    """The e3nn model of a level with fully connected tensor products, per edge."""

    def __init__(
        self, channels: tuple[int, ...], layers: int, basis: int, outputs: int, **graph: float
    ) -> None:
        super().__init__()
        self.graph, self.lmax = graph, len(channels) - 1
        irreps = o3.Irreps([(mul, (l, (-1) ** l)) for l, mul in enumerate(channels)])
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels[0])
        self.basis = BesselBasis(basis, graph["cutoff"])
        self.layers = nn.ModuleList()
        irreps_in = o3.Irreps([(channels[0], "0e")])
        for _ in range(layers):
            layer = FullyConnectedLayer(irreps_in, irreps, self.lmax, basis)
            self.layers.append(layer)
            irreps_in = layer.irreps_out
        self.head = nn.Sequential(nn.Linear(channels[0], 64), nn.SiLU(), nn.Linear(64, outputs))
        self.scalars = channels[0]

    def forward(self, batch: Data) -> Tensor:
        vector, length, weight = edge_geometry(batch, GraphSettings(**self.graph))
        harmonics = o3.spherical_harmonics(list(range(self.lmax + 1)), vector, normalize=True)
        radial = self.basis(length) * weight.unsqueeze(1)
        x = self.embedding(batch.z)
        for layer in self.layers:
            x = layer(x, batch.edge_index, harmonics, radial)
        return self.head(mean_over_atoms(x[:, : self.scalars], batch.batch, batch.ptr))


class ConcatenatedConvolution(nn.Module):
    """Convolution of the original CGCNN: one linear layer on [v_i, v_j, u_ij] per edge."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * hidden + basis, 2 * hidden)
        self.edge_norm = nn.BatchNorm1d(2 * hidden)
        self.norm = nn.BatchNorm1d(hidden)

    def forward(self, atoms: Tensor, edges: Tensor, edge_index: Tensor) -> Tensor:
        sender, receiver = edge_index
        z = self.linear(torch.cat([atoms[receiver], atoms[sender], edges], dim=1))
        gate, core = self.edge_norm(z).chunk(2, dim=1)
        message = torch.sigmoid(gate) * torch.nn.functional.softplus(core)
        total = torch.zeros_like(atoms).index_add(0, receiver, message)
        return torch.nn.functional.softplus(atoms + self.norm(total))


class ConcatenatedModel(nn.Module):
    """CGCNN with the concatenated linear layer, on the same graphs; edge features computed once."""

    def __init__(self, hidden: int, layers: int, basis: int, outputs: int, **graph: float) -> None:
        super().__init__()
        self.graph = graph
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, hidden)
        self.basis = GaussianBasis(basis, graph["cutoff"])
        self.convolutions = nn.ModuleList(
            ConcatenatedConvolution(hidden, basis) for _ in range(layers)
        )
        self.head = nn.Sequential(nn.Linear(hidden, 128), nn.Softplus(), nn.Linear(128, outputs))

    def forward(self, batch: Data) -> Tensor:
        with torch.no_grad():
            _, length, _ = edge_geometry(batch, GraphSettings(**self.graph))
            edges = self.basis(length)
        atoms = self.embedding(batch.z)
        for convolution in self.convolutions:
            atoms = convolution(atoms, edges, batch.edge_index)
        return self.head(mean_over_atoms(atoms, batch.batch, batch.ptr))
