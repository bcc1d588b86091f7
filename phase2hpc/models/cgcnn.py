"""The CGCNN encoder: Xie and Grossman, PRL 120, 145301 (2018), arXiv:1710.10324.

The original applies one linear layer to the concatenation [v_i, v_j, u_ij] of every edge. It is
linear, so its three parts are applied where they are cheapest, the first two once per atom, and
added per edge: the same function at half the cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from phase2hpc.config.algorithms import CGCNNSettings
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.distributed_batch_norm import BatchNorm
from phase2hpc.models.edge_messages import edge_messages
from phase2hpc.models.element_embedding import ElementEmbedding
from phase2hpc.models.geometry import GaussianBasis, edge_geometry, mean_over_atoms


class GatedConvolution(nn.Module):
    """v_i + sum over j of w_ij sigmoid(W_f z_ij) softplus(W_s z_ij), equation 5 of the paper.

    w_ij is the smooth weight of an edge, which the original, with a hard cut, does not have. The
    original's batch normalisation stays: on val it learns sooner than layer normalisation
    (benchmarks/RESULTS.md). In evaluation it uses the statistics of training.
    """

    def __init__(self, hidden: int, basis_size: int) -> None:
        super().__init__()
        self.receiver = nn.Linear(hidden, 2 * hidden)
        self.sender = nn.Linear(hidden, 2 * hidden, bias=False)
        self.edge = nn.Linear(basis_size, 2 * hidden, bias=False)
        self.edge_norm = BatchNorm(2 * hidden)
        self.norm = BatchNorm(hidden)

    def forward(
        self,
        atoms: Tensor,
        edges: Tensor,
        weight: Tensor,
        edge_index: Tensor,
        counted: Tensor,
        padded: bool = False,
    ) -> Tensor:
        """atoms (N, F), edges (E, K), weight (E, 1), edge_index (2, E) -> (N, F).

        counted: (N,) one, or zero for atoms of padding. padded: as of ``BatchNorm.forward``.
        """
        sender, receiver = edge_index
        of_sender, of_receiver = self.sender(atoms), self.receiver(atoms)
        norm = self.edge_norm
        if norm.uses_batch_alone(len(edges), padded) and _in_blocks(atoms.device):
            total, mean, variance = edge_messages(
                edges, weight, edge_index, of_sender, of_receiver,
                self.edge.weight, norm.weight, norm.bias, norm.eps,
            )  # fmt: skip
            norm.count_batch(mean, variance, len(edges))
        else:
            z = self.edge(edges)
            z = z + of_sender.index_select(0, sender)
            z = z + of_receiver.index_select(0, receiver)
            gate, core = norm(z, counted.index_select(0, receiver), padded).chunk(2, dim=1)
            message = weight * torch.sigmoid(gate) * softplus(core)
            total = torch.zeros_like(atoms).index_add(0, receiver, message)
        return softplus(atoms + self.norm(total, counted, padded))


def _in_blocks(device: torch.device) -> bool:
    """A GPU waits for the many small operations, and a compiled model joins operations itself."""
    autocast = torch.is_autocast_enabled(device.type)
    return device.type == "cpu" and not autocast and not torch.compiler.is_compiling()


class CGCNNEncoder(nn.Module):
    """Batch -> crystal vectors (B, out_features)."""

    capturable = True

    def __init__(self, settings: CGCNNSettings, graph: GraphSettings) -> None:
        super().__init__()
        hidden, basis_size = settings.hidden, settings.basis_size
        self.out_features = settings.out_features
        self.graph = graph
        self.embedding = ElementEmbedding(
            hidden,
            descriptors=settings.element_descriptors,
            electron_parity=settings.electron_parity,
        )
        self.basis = GaussianBasis(basis_size, graph.cutoff)
        self.convolutions = nn.ModuleList(
            GatedConvolution(hidden, basis_size) for _ in range(settings.layers)
        )
        self.readout = nn.Sequential(
            nn.Linear(hidden, settings.out_features), nn.Softplus(), nn.Dropout(settings.dropout)
        )

    def forward(self, batch: CrystalData) -> Tensor:
        with torch.no_grad():
            _, length, weight = edge_geometry(batch, self.graph)
            edges = self.basis(length)
        atoms = self.embedding(batch.z, batch.batch, batch.electron_parity)
        counted = batch.weight.index_select(0, batch.batch)
        for convolution in self.convolutions:
            atoms = convolution(
                atoms, edges, weight.unsqueeze(1), batch.edge_index, counted, batch.padded
            )
        crystals: Tensor = self.readout(mean_over_atoms(atoms, batch.batch, batch.ptr))
        return crystals
