"""SchNet (Schütt et al., NeurIPS 2017, arXiv:1706.08566) on the graphs of a phase2hpc store."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models.schnet import GaussianSmearing, ShiftedSoftplus

from phase2hpc import Algorithm, GraphSettings, Level, ModelSettings, Resources
from phase2hpc.data.crystal_data import CrystalData
from phase2hpc.data.elements import MAX_ATOMIC_NUMBER
from phase2hpc.models.geometry import edge_geometry, mean_over_atoms


class SchNetSettings(ModelSettings):
    """Settings of the model; each is a ``--set key=value`` of the command line."""

    hidden: int = Field(ge=1, le=4096, description="features of an atom")
    gaussians: int = Field(50, ge=2, le=512, description="Gaussians of the distance")


class ContinuousFilterConvolution(MessagePassing):
    """x_i <- sum over neighbours j of x_j * W(r_ij), with a learned filter W."""

    def __init__(self, hidden: int, gaussians: int) -> None:
        super().__init__(aggr="add")
        self.filter = nn.Sequential(
            nn.Linear(gaussians, hidden), ShiftedSoftplus(), nn.Linear(hidden, hidden)
        )
        self.sender = nn.Linear(hidden, hidden, bias=False)
        self.update_atoms = nn.Sequential(
            nn.Linear(hidden, hidden), ShiftedSoftplus(), nn.Linear(hidden, hidden)
        )

    def forward(self, atoms: Tensor, edge_index: Tensor, basis: Tensor, weight: Tensor) -> Tensor:
        filters = self.filter(basis) * weight
        messages = self.propagate(edge_index, x=self.sender(atoms), filters=filters)
        return atoms + self.update_atoms(messages)

    def message(self, x_j: Tensor, filters: Tensor) -> Tensor:
        return x_j * filters


class SchNetEncoder(nn.Module):
    """Batch -> crystal vectors (B, out_features); implements ``phase2hpc.Encoder``."""

    def __init__(self, settings: SchNetSettings, graph: GraphSettings) -> None:
        super().__init__()
        self.out_features = settings.out_features
        self.graph = graph
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, settings.hidden)
        self.basis = GaussianSmearing(0.0, graph.cutoff, settings.gaussians)
        self.layers = nn.ModuleList(
            ContinuousFilterConvolution(settings.hidden, settings.gaussians)
            for _ in range(settings.layers)
        )
        self.readout = nn.Sequential(
            nn.Linear(settings.hidden, settings.out_features),
            ShiftedSoftplus(),
            nn.Dropout(settings.dropout),
        )

    def forward(self, batch: CrystalData) -> Tensor:
        # The weights vanish smoothly where a neighbour list ends: no prediction jumps there.
        with torch.no_grad():
            _, length, weight = edge_geometry(batch, self.graph)
            basis = self.basis(length)
        atoms = self.embedding(batch.z)
        for layer in self.layers:
            atoms = layer(atoms, batch.edge_index, basis, weight.unsqueeze(1))
        # The mean over atoms makes the vector the same for a supercell.
        return mean_over_atoms(self.readout(atoms), batch.batch, batch.ptr)


SCHNET = Algorithm(
    name="schnet",
    encoder="phase2hpc_schnet:SchNetEncoder",
    settings=SchNetSettings,
    presets={
        "small": {"hidden": 64, "layers": 2},
        "medium": {"hidden": 128, "layers": 4},
    },
    # An algorithm need not have all five levels.
    levels={
        "lite": Level(
            "small",
            {"epochs": 2, "batch_size": 16, "lr": 1e-3, "max_samples": 400},
            Resources(hours=0.25, cpus=2, memory_gb=8, gpus=0),
            "core4",
        ),
        "std": Level(
            "medium",
            {"epochs": 100, "batch_size": 64, "lr": 1e-3},
            Resources(hours=12, cpus=8, memory_gb=32, gpus=1),
        ),
    },
)
