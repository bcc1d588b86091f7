"""The gate of messages: its values, and the convolution with it against a sum over edges."""

from __future__ import annotations

import torch
from crystals import LONELY, batch_of, sample_crystals

from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.geometry import GaussianBasis, edge_geometry
from phase2hpc.models.message_gate import MessageGate
from phase2hpc.models.tensor_product import Convolution, Geometry

GRAPH = GraphSettings()


@torch.no_grad()
def test_factors_are_one_without_weights_and_stay_between_zero_and_two() -> None:
    gate = MessageGate(channels=5, basis_size=7)
    sender, receiver = gate(torch.randn(6, 5))
    factors = gate.factors(sender.unsqueeze(1), receiver, torch.rand(6, 1, 7))
    assert factors.shape == (6, 1, 5) and (factors > 0).all() and (factors < 2).all()
    for parameter in gate.parameters():
        parameter.zero_()
    sender, receiver = gate(torch.randn(6, 5))
    assert (gate.factors(sender.unsqueeze(1), receiver, torch.rand(6, 1, 7)) == 1).all()


@torch.no_grad()
def test_gated_convolution_is_a_sum_over_edges() -> None:
    """Scalars only: sum over j of w R_k(r) g(h_i, h_j, r) h_j, then the mixing of (k, channel)."""
    torch.manual_seed(0)
    channels, basis_size, gate_size = 4, 3, 9
    batch = batch_of([*sample_crystals()[:6], LONELY], GRAPH)
    geometry = Geometry(0, basis_size, GRAPH, gate_basis_size=gate_size).double()
    convolution = Convolution([channels], [channels], 0, basis_size, gate_size).double()
    order, buckets = geometry(batch, [(0, 0)])
    features = torch.randn(batch.num_nodes, channels, dtype=torch.float64)
    message = convolution({0: features[order].unsqueeze(1)}, buckets)[0].squeeze(1)

    gate = convolution.gate
    assert gate is not None
    _, length, weight = edge_geometry(batch, GRAPH)
    from_sender, from_receiver = gate(features)
    sender, receiver = batch.edge_index
    argument = (
        from_sender[sender]
        + from_receiver[receiver]
        + gate.edge(GaussianBasis(gate_size, GRAPH.cutoff)(length))
    )
    gated = features[sender] * 2 * torch.sigmoid(argument)
    radial = geometry.basis(length) * weight.unsqueeze(1)
    collected = torch.zeros(batch.num_nodes, basis_size, channels, dtype=torch.float64)
    collected.index_add_(0, receiver, radial.unsqueeze(2) * gated.unsqueeze(1))
    expected = collected.flatten(1) @ convolution.weight["0_0"]
    torch.testing.assert_close(message, expected[order], rtol=0, atol=1e-12)
