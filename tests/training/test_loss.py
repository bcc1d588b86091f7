"""The multi-task loss: absent labels, weights, micro-batches, expectations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from phase2hpc.training.loss import MultiTaskLoss

FRACTION = torch.tensor([1.0, 0.28, 0.5, 0.04], dtype=torch.float64)
P = len(FRACTION)


def make_loss(
    *, learned: bool = True, power: float = 1.0, delta: float = 0.1, fraction: Tensor = FRACTION
) -> MultiTaskLoss:
    """With task weights that differ, where they are learned."""
    loss = MultiTaskLoss(
        fraction, huber_delta=delta, learned_weights=learned, label_weight_power=power
    )
    if loss.log_scale is not None:
        with torch.no_grad():
            loss.log_scale += torch.linspace(-0.7, 0.9, len(fraction), dtype=torch.float64)
    return loss


def data(size: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets with the labels' fractions (never of the last property), weights."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(size, P, generator=generator, dtype=torch.float64)
    target = torch.randn(size, P, generator=generator, dtype=torch.float64)
    missing = torch.rand(size, P, generator=generator, dtype=torch.float64) > FRACTION
    missing[:, -1] = True
    target[missing] = math.nan
    assert torch.isfinite(target[:, :-1]).any(dim=0).all()
    return prediction.requires_grad_(True), target, torch.ones(size, dtype=torch.float64)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("learned", [False, True])
def test_loss_is_the_formula_written_out(learned: bool, power: float) -> None:
    loss = make_loss(learned=learned, power=power)
    prediction, target, weight = data()
    total, by_property = loss(prediction, target, weight, 12)
    expected, norm = 0.0, 0.0
    for p in range(P):
        rows = torch.isfinite(target[:, p])
        share = 12 * float(FRACTION[p])
        value = huber_loss(prediction[rows, p], target[rows, p], delta=0.1, reduction="sum") / 0.1
        value = float(value) / share
        assert float(by_property[p]) == pytest.approx(value, rel=1e-12, abs=0)
        if loss.log_scale is not None:
            s = float(loss.log_scale[p])
            value = math.exp(-s) * value + s * int(rows.sum()) / share
        expected += float(FRACTION[p]) ** power * value
        norm += float(FRACTION[p]) ** power
    assert float(total) == pytest.approx(expected / norm, rel=1e-12)
    assert not by_property.requires_grad


def test_power_one_counts_labels_alike_and_power_zero_properties() -> None:
    """The step that one labelled crystal makes, by property."""
    for power, expected in ((1.0, FRACTION**0), (0.0, 1 / FRACTION)):
        prediction = torch.full((1, P), 5.0, dtype=torch.float64, requires_grad=True)
        loss = make_loss(learned=False, power=power)
        total, _ = loss(prediction, torch.zeros(1, P).double(), torch.ones(1).double(), 1)
        total.backward()
        assert prediction.grad is not None
        torch.testing.assert_close(prediction.grad[0] / prediction.grad[0, 0], expected)


@pytest.mark.parametrize("learned", [False, True])
def test_absent_property_contributes_nothing(learned: bool) -> None:
    loss = make_loss(learned=learned)
    prediction, target, weight = data()
    total, by_property = loss(prediction, target, weight, 12)
    total.backward()
    assert prediction.grad is not None
    assert by_property[-1] == 0
    assert torch.equal(prediction.grad != 0, torch.isfinite(target))
    if loss.log_scale is not None:
        assert loss.log_scale.grad is not None
        assert loss.log_scale.grad[-1] == 0 and loss.log_scale.grad[:-1].all()
    # Nor does what the model says of it.
    wild = prediction.detach().clone()
    wild[:, -1] = math.inf
    wild[~torch.isfinite(target)] *= 1e30
    assert loss(wild, target, weight, 12)[0] == total.detach()


def test_batch_without_a_label_has_zero_loss_and_zero_gradients() -> None:
    loss = make_loss()
    prediction = torch.randn(3, P, dtype=torch.float64, requires_grad=True)
    total, _ = loss(prediction, torch.full((3, P), math.nan).double(), torch.ones(3).double(), 3)
    total.backward()
    assert loss.log_scale is not None and loss.log_scale.grad is not None
    assert prediction.grad is not None
    assert total == 0 and not prediction.grad.any() and not loss.log_scale.grad.any()


@pytest.mark.parametrize("learned", [False, True])
def test_order_of_properties_only_permutes(learned: bool) -> None:
    prediction, target, weight = data()
    loss = make_loss(learned=learned)
    total, by_property = loss(prediction, target, weight, 12)
    total.backward()
    order = torch.tensor([2, 0, 3, 1])
    other = make_loss(learned=learned, fraction=FRACTION[order])
    if loss.log_scale is not None and other.log_scale is not None:
        other.log_scale.data = loss.log_scale.data[order].clone()
    moved = prediction.detach()[:, order].requires_grad_(True)
    total_2, by_property_2 = other(moved, target[:, order], weight, 12)
    total_2.backward()
    assert prediction.grad is not None and moved.grad is not None
    torch.testing.assert_close(total_2, total, rtol=1e-13, atol=0)
    torch.testing.assert_close(by_property_2, by_property[order], rtol=1e-13, atol=0)
    torch.testing.assert_close(moved.grad, prediction.grad[:, order], rtol=1e-13, atol=0)
    if loss.log_scale is not None and other.log_scale is not None:
        assert loss.log_scale.grad is not None
        torch.testing.assert_close(other.log_scale.grad, loss.log_scale.grad[order])


@pytest.mark.parametrize("parts", [[6, 6], [1, 4, 7], [1] * 12])
@pytest.mark.parametrize("learned", [False, True])
def test_micro_batches_sum_to_the_batch(parts: list[int], learned: bool) -> None:
    """Ranks and accumulation steps divide by the size of the global batch, and add up."""
    prediction, target, weight = data()
    whole = make_loss(learned=learned)
    total, by_property = whole(prediction, target, weight, 12)
    total.backward()
    pieces = make_loss(learned=learned)
    copy = prediction.detach().clone().requires_grad_(True)
    sums = [torch.zeros(()).double(), torch.zeros(P).double()]
    for rows in torch.arange(12).split(parts):
        part, part_by_property = pieces(copy[rows], target[rows], weight[rows], 12)
        part.backward()
        sums = [sums[0] + part.detach(), sums[1] + part_by_property]
    assert prediction.grad is not None and copy.grad is not None
    for ours, theirs in (
        (sums[0], total.detach()), (sums[1], by_property), (copy.grad, prediction.grad)
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    if whole.log_scale is not None and pieces.log_scale is not None:
        torch.testing.assert_close(
            pieces.log_scale.grad, whole.log_scale.grad, rtol=1e-12, atol=1e-14
        )


def test_padding_counts_for_nothing() -> None:
    loss = make_loss()
    prediction, target, weight = data()
    total, by_property = loss(prediction, target, weight, 12)
    padded = loss(
        torch.cat([prediction, prediction[:3]]),
        torch.cat([target, target[:3]]),
        torch.cat([weight, torch.zeros(3).double()]),
        12,
    )
    torch.testing.assert_close(padded, (total, by_property), rtol=1e-13, atol=0)


def test_expectation_is_the_mean_over_labelled_crystals() -> None:
    """Batches of one epoch, however their labels fall: their losses add up to that mean."""
    n, size = 2000, 8
    generator = torch.Generator().manual_seed(3)
    prediction = torch.randn(n, P, generator=generator, dtype=torch.float64)
    target = torch.randn(n, P, generator=generator, dtype=torch.float64)
    target[torch.rand(n, P, generator=generator, dtype=torch.float64) > FRACTION] = math.nan
    labelled = torch.isfinite(target)
    fraction = labelled.double().mean(dim=0)
    loss = make_loss(learned=False, fraction=fraction)
    weight = torch.ones(size, dtype=torch.float64)
    batches = torch.randperm(n, generator=generator).split(size)
    found = torch.stack([loss(prediction[b], target[b], weight, size)[1] for b in batches])
    error = (prediction - target).abs()
    huber = torch.where(error < 0.1, error**2 / 0.2, error - 0.05)
    expected = torch.where(labelled, huber, 0.0).sum(0) / labelled.sum(0)
    torch.testing.assert_close(found.mean(dim=0), expected)


def test_huber_is_square_below_delta_and_absolute_above() -> None:
    loss = make_loss(learned=False, delta=0.5, fraction=torch.ones(1).double())
    prediction = torch.tensor([[0.0], [0.2], [-0.5], [2.0]], dtype=torch.float64)
    prediction.requires_grad_(True)
    zero, one = torch.zeros(4, 1).double(), torch.ones(4).double()
    total, _ = loss(prediction, zero, one, 1)
    total.backward()
    assert float(total) == pytest.approx(0 + 0.04 + 0.25 + 1.75)
    assert prediction.grad is not None
    assert prediction.grad.flatten().tolist() == pytest.approx([0.0, 0.4, -1.0, 1.0])


def test_learned_weight_settles_at_the_logarithm_of_its_loss() -> None:
    """exp(-s) loss + s is least where s = log(loss), for a rare property too."""
    loss = MultiTaskLoss(
        torch.tensor([1.0, 0.25]).double(),
        huber_delta=0.1,
        learned_weights=True,
        label_weight_power=1.0,
    )
    prediction = torch.tensor([[2.05, 0.55]] * 4, dtype=torch.float64)
    target = torch.zeros(4, 2, dtype=torch.float64)
    target[1:, 1] = math.nan
    optimizer = torch.optim.SGD(loss.parameters(), lr=2.0)
    for _ in range(100):
        optimizer.zero_grad()
        loss(prediction, target, torch.ones(4).double(), 4)[0].backward()
        optimizer.step()
    assert loss.log_scale is not None
    assert loss.log_scale.tolist() == pytest.approx([math.log(2.0), math.log(0.5)], abs=1e-6)


def test_learned_weight_leaves_out_labels_at_the_bound_that_are_met() -> None:
    """s settles at the logarithm of the mean loss over the others: 2 of one in four here."""
    loss = make_loss(fraction=torch.ones(1).double())
    loss.lower_bound[:] = 0.0
    prediction = torch.tensor([[2.05], [-1.0], [-3.0], [0.0]], dtype=torch.float64)
    target, ones = torch.zeros(4, 1).double(), torch.ones(4).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=2.0)
    for _ in range(100):
        optimizer.zero_grad()
        loss(prediction, target, ones, 4)[0].backward()
        optimizer.step()
    assert loss.log_scale is not None
    assert float(loss.log_scale) == pytest.approx(math.log(2.0), abs=1e-6)


def test_saved_state_is_the_learned_weights_only() -> None:
    assert list(make_loss().state_dict()) == ["log_scale"]
    assert list(make_loss(learned=False).state_dict()) == []


def test_a_label_at_its_bound_is_met_by_every_prediction_below() -> None:
    """And by none above; labels above the bound, and properties without one, are as they were."""
    rows = [  # label, prediction, and sign of the gradient
        (-0.5, -2.0, 0), (-0.5, -0.5, 0), (-0.5, 0.1, 1),
        (-0.7, -2.0, 0), (-0.7, -0.6, 0), (-0.7, 0.1, 1),
        (0.3, -2.0, -1), (0.3, 0.9, 1), (math.nan, 5.0, 0),
    ]  # fmt: skip
    target, values, signs = (torch.tensor(column).double() for column in zip(*rows, strict=True))
    loss = make_loss(learned=False, power=0.0, fraction=torch.ones(2).double())
    loss.lower_bound[0] = -0.5
    prediction = values.unsqueeze(1).repeat(1, 2).requires_grad_(True)
    both = target.unsqueeze(1).expand(-1, 2)
    loss(prediction, both, torch.ones(len(rows)).double(), 1)[0].backward()
    assert prediction.grad is not None
    assert prediction.grad[:, 0].sign().tolist() == signs.tolist()
    assert prediction.grad[:, 1].sign().nan_to_num().tolist() == [
        float(np.sign(p - t)) if t == t else 0.0 for t, p, _ in rows
    ]


def test_a_property_whose_labels_are_all_at_the_bound_stays_finite() -> None:
    """Its loss is zero, which has no logarithm."""
    loss = make_loss(fraction=torch.ones(1).double())
    loss.lower_bound[:] = 0.0
    zeros, ones = torch.zeros(4, 1).double(), torch.ones(4).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=10.0)
    for _ in range(100):
        optimizer.zero_grad()
        loss(zeros - 1.0, zeros, ones, 4)[0].backward()
        optimizer.step()
    prediction = (zeros + 0.05).requires_grad_(True)
    total, _ = loss(prediction, zeros, ones, 4)
    total.backward()
    assert torch.isfinite(total) and prediction.grad is not None
    assert 0.0 < float(prediction.grad.sum()) < 1e4
