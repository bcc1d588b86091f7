"""Statistics of the global batch without padding, for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from phase2hpc.models.distributed_batch_norm import BatchNorm

FEATURES = 5


@pytest.fixture
def a_world_of_one(tmp_path: Path) -> Iterator[None]:
    """Several processes' code, with one of them: tests/training has several."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def pair(dtype: torch.dtype = torch.float64) -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Ours, and torch's with the same parameters and statistics."""
    ours, theirs = BatchNorm(FEATURES).to(dtype), nn.BatchNorm1d(FEATURES).to(dtype)
    with torch.no_grad():
        for name, value in ours.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 2.0)
            theirs.state_dict()[name].copy_(value)
    return ours, theirs


def values_and_gradients(
    norm: nn.Module, x: Tensor, probe: Tensor, *weight: Tensor
) -> tuple[Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    out = norm(x, *weight)
    return out, list(torch.autograd.grad((out * probe).sum(), [x, *norm.parameters()]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3])
def test_padding_is_as_if_it_were_not_there(a_world_of_one, steps, dtype) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for _ in range(steps):
        x = 100 + 3 * torch.randn(9, FEATURES, dtype=dtype)
        weight = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1], dtype=dtype)
        counted = weight > 0
        # No loss is taken of padding.
        probe = torch.randn_like(x) * weight.unsqueeze(1)
        out, gradients = values_and_gradients(ours, x, probe, weight)
        expected, theirs_gradients = values_and_gradients(theirs, x[counted], probe[counted])
        close = {"rtol": tolerance, "atol": 30 * tolerance}
        torch.testing.assert_close(out[counted], expected, **close)
        torch.testing.assert_close(gradients[0][counted], theirs_gradients[0], **close)
        assert not gradients[0][~counted].any()
        torch.testing.assert_close(gradients[1:], theirs_gradients[1:], **close)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, **close)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_so_few_rows_that_there_is_no_variance(a_world_of_one, rows) -> None:
    ours, _ = pair()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    x = torch.randn(rows + 2, FEATURES, dtype=torch.float64)
    weight = torch.zeros(rows + 2, dtype=torch.float64)
    weight[:rows] = 1.0
    out = ours(x, weight)
    changed = {
        name for name, value in ours.state_dict().items() if not (value == before[name]).all()
    }
    if rows < 2:
        assert not changed
        torch.testing.assert_close(out, ours.eval()(x, weight))
    else:
        assert changed == {"running_mean", "running_var", "num_batches_tracked"}
        assert torch.isfinite(out).all()


def test_gradient_by_finite_differences(a_world_of_one) -> None:
    ours, _ = pair()
    x = torch.randn(6, FEATURES, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1, 0, 1, 1, 1, 1], dtype=torch.float64)
    probe = torch.randn(6, FEATURES, dtype=torch.float64) * weight.unsqueeze(1)

    def loss(x: Tensor) -> Tensor:
        return (ours(x, weight) * probe).sum()

    assert torch.autograd.gradcheck(loss, (x,))


@pytest.mark.parametrize("training", [False, True])
def test_alone_it_is_torchs(training) -> None:
    ours, theirs = pair()
    x = torch.randn(7, FEATURES, dtype=torch.float64)
    ones = torch.ones(7, dtype=torch.float64)
    assert torch.equal(ours.train(training)(x, ones), theirs.train(training)(x))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


def test_one_row_alone_is_normalised_as_in_evaluation() -> None:
    ours, theirs = pair()
    x = torch.randn(1, FEATURES, dtype=torch.float64)
    torch.testing.assert_close(ours(x, torch.ones(1)), theirs.eval()(x))
    assert ours.num_batches_tracked == 0
