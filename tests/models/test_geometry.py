"""Edge vectors, smooth weights, radial bases, pooling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from crystals import LONELY, batch_of, sample_crystals
from torch import Tensor

from phase2hpc.data.graph import GraphSettings
from phase2hpc.models.geometry import (
    BesselBasis,
    GaussianBasis,
    edge_geometry,
    edge_vectors,
    mean_over_atoms,
    neighbor_weights,
    smooth_step,
)

CUTOFF = 6.0


def weights_of(rows: list[list[float]], k: int | None, shell_width: float = 0.3) -> list[Tensor]:
    """Weights of receivers' edges, given the lengths of each receiver."""
    degree = torch.tensor([len(row) for row in rows])
    length = torch.tensor([x for row in rows for x in row], dtype=torch.float64)
    receiver = torch.repeat_interleave(torch.arange(len(rows)), degree)
    found = neighbor_weights(
        length,
        receiver,
        degree,
        max(map(len, rows)),
        cutoff=CUTOFF,
        max_neighbors=k,
        shell_width=shell_width,
    )
    return list(found.split(degree.tolist()))


def test_edge_vectors_lead_from_receiver_to_the_image_of_the_sender() -> None:
    batch = batch_of([*sample_crystals(), LONELY])
    vectors = edge_vectors(batch).numpy()
    rng = np.random.default_rng(0)
    for e in rng.integers(0, len(vectors), 50):
        sender, receiver = batch.edge_index[:, e].tolist()
        cell = batch.cell[int(batch.batch[receiver])].numpy()
        there = batch.pos[sender].numpy() + batch.edge_shift[e].numpy() @ cell
        np.testing.assert_allclose(vectors[e], there - batch.pos[receiver].numpy(), atol=1e-12)


def test_every_edge_has_its_opposite_in_the_sphere() -> None:
    vectors = edge_vectors(batch_of(sample_crystals(), GraphSettings(4.0, None)))
    assert len(vectors) > 100 and vectors.sum(0).abs().max() < 1e-9


def test_smooth_step_has_two_continuous_derivatives() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-4, 0.5, 1 - 1e-4, 1.0, 2.0], dtype=torch.float64)
    x.requires_grad_(True)
    y = smooth_step(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert y.tolist()[:2] == [1.0, 1.0] and y[-2:].abs().max() < 1e-15
    assert y[3] == 0.5 and slope[3] < -1
    assert slope[[0, 1, 5, 6]].abs().max() == 0 and slope[[2, 4]].abs().max() < 1e-6
    assert bend[[0, 6]].abs().max() == 0 and bend[[2, 4]].abs().max() < 0.01
    assert torch.isfinite(smooth_step(torch.tensor([-math.inf, math.inf]))).all()


def test_weights_end_with_the_shell_and_with_the_cutoff() -> None:
    row = [2.0, 2.0, 3.0, 3.1, 3.29, 3.3, 5.9]
    (found,) = weights_of([row], 3)
    assert found[:3].tolist() == [1.0, 1.0, 1.0]
    assert 1 > found[3] > found[4] > 0
    assert found[5:].abs().max() < 1e-15
    (sphere,) = weights_of([[1.0, 4.7, 4.9, 5.9, 6.0]], None)
    assert sphere[:2].tolist() == [1.0, 1.0]
    assert 1 > sphere[2] > sphere[3] > 1e-4
    assert abs(sphere[4]) < 1e-15


def test_tied_neighbors_weigh_alike_in_any_order() -> None:
    rows = [[3.0, 2.0, 3.0, 3.0, 3.2], [3.2, 3.0, 3.0, 2.0, 3.0]]
    first, second = weights_of(rows, 2)
    assert first.sort().values.tolist() == second.sort().values.tolist()
    assert first[[0, 2, 3]].tolist() == [1.0, 1.0, 1.0]


def test_weights_do_not_depend_on_other_receivers() -> None:
    long, short = [2.0 + 0.05 * i for i in range(20)], [5.0, 5.5]
    together = weights_of([short, long, [], short], 4)
    for row, found in zip([short, long, [], short], together, strict=True):
        assert torch.equal(found, weights_of([row], 4)[0])
    assert weights_of([[], []], 4)[0].shape == (0,)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_weights_near_k_neighbors(count: int) -> None:
    """With no more than k neighbours, only the cutoff ends the list."""
    (found,) = weights_of([[2.0 + 0.2 * i for i in range(count)]], 4)
    assert found[:4].tolist() == [1.0] * min(count, 4)
    assert found[4:].tolist() == pytest.approx([1 - (2 / 3) ** 3 * (10 - 10 + 8 / 3)] * (count - 4))


def test_bessel_functions_are_orthonormal_and_vanish_at_the_cutoff() -> None:
    """Integral of R_k R_l r^2 over [0, cutoff] (equation 7 of arXiv:2003.03123)."""
    basis = BesselBasis(8, CUTOFF).double()
    r = torch.linspace(1e-6, CUTOFF, 20001, dtype=torch.float64)
    values = basis(r)
    assert values[-1].abs().max() < 1e-6
    overlap = torch.trapezoid(
        values[:, :, None] * values[:, None] * r[:, None, None] ** 2, r, dim=0
    )
    torch.testing.assert_close(overlap, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-5)


def test_gaussians_are_centred_evenly_from_zero_to_the_cutoff() -> None:
    basis = GaussianBasis(13, CUTOFF).double()
    values = basis(torch.linspace(0, CUTOFF, 13, dtype=torch.float64))
    torch.testing.assert_close(values.diagonal(), torch.ones(13, dtype=torch.float64))
    torch.testing.assert_close(
        values.diagonal(1), torch.full((12,), math.exp(-1), dtype=torch.float64)
    )


def test_mean_over_atoms_is_a_mean_by_crystal() -> None:
    batch = batch_of([sample_crystals()[5], LONELY, sample_crystals()[0]])
    values = torch.randn(batch.num_nodes, 3, dtype=torch.float64)
    found = mean_over_atoms(values, batch.batch, batch.ptr)
    expected = torch.stack([values[:5].mean(0), values[5], values[6]])
    torch.testing.assert_close(found, expected)
    order = torch.randperm(batch.num_nodes)
    again = mean_over_atoms(values[order], batch.batch[order], batch.ptr)
    torch.testing.assert_close(again, expected)


def test_geometry_of_a_batch_is_that_of_its_crystals() -> None:
    raws = [*sample_crystals()[:6], LONELY]
    settings = GraphSettings()
    whole = edge_geometry(batch_of(raws), settings)
    parts = [edge_geometry(batch_of([raw]), settings) for raw in raws]
    for together, alone in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)
