"""The split linear layer is the concatenated one of the original CGCNN."""

from __future__ import annotations

import pytest
import torch
from crystals import LONELY, batch_of, random_model, sample_crystals
from torch import Tensor, nn
from torch.nn.functional import softplus

from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.cgcnn import CGCNNEncoder, GatedConvolution
from phase2hpc.models.geometry import edge_geometry

HIDDEN, BASIS = 12, 7


def original(
    convolution: GatedConvolution, atoms: Tensor, edges: Tensor, weight: Tensor, index: Tensor
) -> Tensor:
    """Equation 5 of the paper, one linear layer on [v_i, v_j, u_ij], atom by atom."""
    parts = (convolution.receiver, convolution.sender, convolution.edge)
    whole = nn.Linear(2 * HIDDEN + BASIS, 2 * HIDDEN).double()
    whole.weight = nn.Parameter(torch.cat([part.weight for part in parts], dim=1))
    whole.bias = convolution.receiver.bias
    totals = []
    for i in range(len(atoms)):
        total = torch.zeros(HIDDEN, dtype=torch.float64)
        for e in (index[1] == i).nonzero().flatten().tolist():
            z = whole(torch.cat([atoms[i], atoms[index[0, e]], edges[e]]))
            z = convolution.edge_norm(z)
            total = total + weight[e] * torch.sigmoid(z[:HIDDEN]) * softplus(z[HIDDEN:])
        totals.append(total)
    return softplus(atoms + convolution.norm(torch.stack(totals)))


def test_split_linear_layer_is_the_concatenated_one() -> None:
    torch.manual_seed(0)
    settings = GraphSettings()
    batch = batch_of([sample_crystals()[5], LONELY, sample_crystals()[13]])
    convolution = GatedConvolution(HIDDEN, BASIS).double()
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    atoms = torch.randn(batch.num_nodes, HIDDEN, dtype=torch.float64, requires_grad=True)
    _, length, weight = edge_geometry(batch, **settings.to_dict())
    assert (weight < 1).any()
    edges = torch.randn(len(length), BASIS, dtype=torch.float64)
    ours = convolution(atoms, edges, weight.unsqueeze(1), batch.edge_index)
    theirs = original(convolution, atoms, edges, weight, batch.edge_index)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(ours)
    (a,) = torch.autograd.grad((ours * probe).sum(), atoms)
    (b,) = torch.autograd.grad((theirs * probe).sum(), atoms)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_edge_of_zero_weight_is_no_edge() -> None:
    torch.manual_seed(0)
    convolution = GatedConvolution(HIDDEN, BASIS).double()
    atoms = torch.randn(3, HIDDEN, dtype=torch.float64)
    index = torch.tensor([[1, 2, 0], [0, 0, 1]])
    edges = torch.randn(3, BASIS, dtype=torch.float64)
    weight = torch.tensor([[1.0], [0.0], [0.5]], dtype=torch.float64)
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(
        convolution(atoms, edges, weight, index),
        convolution(atoms, edges[kept], weight[kept], index[:, kept]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_encoder_shape_dtype_and_gradients(dtype: torch.dtype) -> None:
    model = random_model("cgcnn", GraphSettings(), dtype, "small")
    assert isinstance(model.encoder, CGCNNEncoder)
    out = model.encoder(batch_of([sample_crystals()[5], LONELY], dtype=dtype))
    assert out.shape == (2, model.encoder.out_features) and out.dtype == dtype
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_no_statistics_of_the_batch() -> None:
    """In training mode too, a crystal's vector is its own (no BatchNorm)."""
    model = random_model("cgcnn", GraphSettings(), torch.float64, "small").train()
    raws = sample_crystals()[:5]
    torch.testing.assert_close(
        model(batch_of(raws))[:1], model(batch_of(raws[:1])), rtol=0, atol=1e-11
    )
