"""The moving average of weights equals a loop written out."""

from __future__ import annotations

import torch
from torch import nn

from phase2hpc.training.ema import AveragedModel

GOOD, BAD = torch.tensor(True), torch.tensor(False)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).double()


def drift(module: nn.Module, step: int) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn_like(parameter) / (1 + step)
        for buffer in module.buffers():
            buffer += 1


def test_average_is_the_loop_written_out() -> None:
    trained = model()
    averaged = AveragedModel(trained, 0.9)
    expected = [p.detach().clone() for p in trained.parameters()]
    for step in range(200):
        drift(trained, step)
        averaged.update(averaged.rate(step), GOOD)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [
            decay * e + (1 - decay) * p.detach()
            for e, p in zip(expected, trained.parameters(), strict=True)
        ]
    for ours, theirs in zip(averaged.module.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_warm_up_forgets_the_initial_weights() -> None:
    """After one step nine tenths are the new weights, whatever the final decay."""
    trained = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(trained.weight)
    averaged = AveragedModel(trained, 0.999)
    nn.init.ones_(trained.weight)
    averaged.update(averaged.rate(0), GOOD)
    assert abs(float(averaged.module.weight) - 0.9) < 1e-6
    for step in range(1, 30):
        averaged.update(averaged.rate(step), GOOD)
    assert float(averaged.module.weight) > 0.999


def test_no_decay_is_no_average() -> None:
    trained = model()
    averaged = AveragedModel(trained, 0.0)
    drift(trained, 0)
    averaged.update(averaged.rate(5), GOOD)
    for ours, theirs in zip(averaged.module.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_buffers_are_copied() -> None:
    trained = model()
    averaged = AveragedModel(trained, 0.9)
    drift(trained, 0)
    averaged.update(averaged.rate(100), GOOD)
    for ours, theirs in zip(averaged.module.buffers(), trained.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_constant_tables_are_shared_in_value_and_not_copied() -> None:
    """They are no part of a state."""
    trained = model()
    trained.register_buffer("table", torch.zeros(3), persistent=False)
    averaged = AveragedModel(trained, 0.9)
    trained.table += 1
    averaged.update(averaged.rate(0), GOOD)
    assert not averaged.module.table.any()


def test_a_bad_step_leaves_the_average_and_restores_the_statistics() -> None:
    trained = model()
    averaged = AveragedModel(trained, 0.9)
    drift(trained, 0)
    averaged.update(averaged.rate(0), GOOD)
    before = {k: v.clone() for k, v in averaged.module.state_dict().items()}
    for buffer in trained.buffers():
        buffer += 1
    averaged.update(averaged.rate(1), BAD)
    assert all(torch.equal(before[k], v) for k, v in averaged.module.state_dict().items())
    assert all(torch.equal(before[k], v) for k, v in trained.named_buffers())


def test_copy_is_for_evaluation_and_shares_nothing() -> None:
    trained = model()
    averaged = AveragedModel(trained, 0.9)
    assert trained.training and not any(m.training for m in averaged.module.modules())
    assert not any(p.requires_grad for p in averaged.module.parameters())
    assert all(p.requires_grad for p in trained.parameters())
    before = [p.clone() for p in averaged.module.parameters()]
    drift(trained, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, averaged.module.parameters(), strict=True))
