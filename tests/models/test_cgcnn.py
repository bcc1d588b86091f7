"""The split linear layer is the concatenated one of the original CGCNN."""

from __future__ import annotations

import copy

import pytest
import torch
from crystals import LONELY, batch_of, random_model, sample_crystals
from torch import Tensor, nn
from torch.nn.functional import softplus

from phase2hpc.data.graph import GraphSettings
from phase2hpc.models import edge_messages
from phase2hpc.models.cgcnn import CGCNNEncoder, GatedConvolution
from phase2hpc.models.distributed_batch_norm import BatchNorm
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
    pairs = index.T.tolist()
    z = whole(
        torch.stack([torch.cat([atoms[i], atoms[j], edges[e]]) for e, (j, i) in enumerate(pairs)])
    )
    gate, core = convolution.edge_norm(z, z.new_ones(len(z))).chunk(2, dim=1)
    message = weight.unsqueeze(1) * torch.sigmoid(gate) * softplus(core)
    totals = [message[index[1] == i].sum(dim=0) for i in range(len(atoms))]
    return softplus(atoms + convolution.norm(torch.stack(totals), atoms.new_ones(len(atoms))))


def trained_convolution() -> GatedConvolution:
    """In evaluation, with statistics as if from training."""
    convolution = GatedConvolution(HIDDEN, BASIS).double()
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    for norm in (convolution.edge_norm, convolution.norm):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return convolution.eval()


@pytest.mark.parametrize("training", [False, True])
def test_split_linear_layer_is_the_concatenated_one(training: bool) -> None:
    torch.manual_seed(0)
    settings = GraphSettings()
    batch = batch_of([sample_crystals()[5], LONELY, sample_crystals()[13]])
    convolution = trained_convolution().train(training)
    atoms = torch.randn(batch.num_nodes, HIDDEN, dtype=torch.float64, requires_grad=True)
    _, length, weight = edge_geometry(batch, settings)
    assert (weight < 1).any()
    edges = torch.randn(len(length), BASIS, dtype=torch.float64)
    counted = torch.ones(len(atoms), dtype=torch.float64)
    ours = convolution(atoms, edges, weight.unsqueeze(1), batch.edge_index, counted)
    theirs = original(convolution, atoms, edges, weight, batch.edge_index)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(ours)
    inputs = [atoms, *convolution.edge_norm.parameters(), *convolution.norm.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * probe).sum(), inputs),
        torch.autograd.grad((theirs * probe).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_messages_block_by_block_are_the_plain_operations(block: int, monkeypatch) -> None:
    """Values, all gradients and running statistics, for blocks that divide the edges and do not."""
    torch.manual_seed(0)
    batch = batch_of([sample_crystals()[5], LONELY, sample_crystals()[13]])
    _, length, weight = edge_geometry(batch, GraphSettings())
    atoms = torch.randn(batch.num_nodes, HIDDEN, dtype=torch.float64, requires_grad=True)
    edges = torch.randn(len(length), BASIS, dtype=torch.float64)
    inputs = (edges, weight.unsqueeze(1), batch.edge_index, torch.ones_like(atoms[:, 0]))
    convolution = trained_convolution().train()
    monkeypatch.setattr(edge_messages, "BLOCK", block)
    probe = torch.randn(batch.num_nodes, HIDDEN, dtype=torch.float64)
    found = []
    for blocks in (True, False):
        here = copy.deepcopy(convolution)
        if not blocks:
            monkeypatch.setattr(BatchNorm, "uses_batch_alone", lambda *_: False)
        out = here(atoms, *inputs)
        gradients = torch.autograd.grad((out * probe).sum(), [atoms, *here.parameters()])
        found.append([out, *gradients, *here.buffers()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_edge_of_zero_weight_is_no_edge() -> None:
    torch.manual_seed(0)
    convolution = trained_convolution()
    atoms = torch.randn(3, HIDDEN, dtype=torch.float64)
    index = torch.tensor([[1, 2, 0], [0, 0, 1]])
    edges = torch.randn(3, BASIS, dtype=torch.float64)
    weight = torch.tensor([[1.0], [0.0], [0.5]], dtype=torch.float64)
    kept = torch.tensor([0, 2])
    counted = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(
        convolution(atoms, edges, weight, index, counted),
        convolution(atoms, edges[kept], weight[kept], index[:, kept], counted),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_encoder_shape_dtype_and_gradients(dtype: torch.dtype) -> None:
    model = random_model("cgcnn", GraphSettings(), dtype, "small")
    assert isinstance(model.encoder, CGCNNEncoder)
    out = model.encoder(batch_of([sample_crystals()[5], LONELY], dtype=dtype))
    assert out.shape == (2, model.encoder.out_features) and out.dtype == dtype
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_statistics_of_the_batch_only_in_training() -> None:
    model = random_model("cgcnn", GraphSettings(), torch.float64, "small")
    raws = sample_crystals()[:5]
    alone, together = batch_of(raws[:1]), batch_of(raws)
    model.train()
    assert not torch.allclose(model(together)[:1], model(alone))
    model.eval()
    torch.testing.assert_close(model(together)[:1], model(alone), rtol=0, atol=1e-11)


def test_training_on_one_atom_without_neighbours() -> None:
    """Fewer than two rows have no variance: torch's own BatchNorm1d refuses them."""
    model = random_model("cgcnn", GraphSettings(), torch.float64, "small").train()
    lonely = batch_of([LONELY])
    assert lonely.num_nodes == 1 and lonely.num_edges == 0
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    out = model(lonely)
    out.sum().backward()
    torch.testing.assert_close(out, model.eval()(lonely))
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
