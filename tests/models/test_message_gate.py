"""The convolution with gated messages against a sum over edges."""

from __future__ import annotations

import torch
from crystals import LONELY, batch_of, sample_crystals

from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.edge_operators import Geometry
from phase2hpc.models.geometry import GaussianBasis, edge_geometry
from phase2hpc.models.tensor_product import Convolution

GRAPH = GraphSettings()


@torch.no_grad()
def test_gated_convolution_is_a_sum_over_edges() -> None:
    """Scalars only: sum over j of w R_k(r) g(h_i, h_j, r) h_j, then the mixing of (k, channel),
    with g = 2 sigmoid(W_s h_j + W_r h_i + W_e R(r))."""
    torch.manual_seed(0)
    channels, basis_size, gate_size = 4, 3, 9
    batch = batch_of([*sample_crystals()[:6], LONELY], GRAPH)
    geometry = Geometry(0, basis_size, GRAPH, gate_basis_size=gate_size).double()
    convolution = Convolution([channels], [channels], 0, basis_size, gate_size).double()
    order, operators = geometry(batch, [(0, 0)])
    features = torch.randn(batch.num_nodes, channels, dtype=torch.float64)
    message = convolution({0: features[order].unsqueeze(1)}, operators)[0].squeeze(1)

    gate = convolution.gate
    assert gate is not None
    _, length, weight = edge_geometry(batch, GRAPH)
    sender, receiver = batch.edge_index
    argument = (
        gate.sender(features)[sender]
        + gate.receiver(features)[receiver]
        + gate.edge(GaussianBasis(gate_size, GRAPH.cutoff)(length))
    )
    gated = features[sender] * 2 * torch.sigmoid(argument)
    radial = geometry.basis(length) * weight.unsqueeze(1)
    collected = torch.zeros(batch.num_nodes, basis_size, channels, dtype=torch.float64)
    collected.index_add_(0, receiver, radial.unsqueeze(2) * gated.unsqueeze(1))
    expected = collected.flatten(1) @ convolution.weight["0_0"]
    torch.testing.assert_close(message, expected[order], rtol=0, atol=1e-12)
