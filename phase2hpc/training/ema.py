"""Exponential moving average (EMA) of a model's weights, used for validation and prediction."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class AveragedModel(Generic[Model]):
    """A copy of ``model`` with averaged weights.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that a short run is not an average
    with its own initial weights. Running statistics are copied.

    ``torch.optim.swa_utils.AveragedModel`` is not used: it counts updates instead of steps, so that
    skipped steps shift the decay; its first update replaces the initial weights; and it passes the
    count as a tensor, from which such a decay costs a synchronisation per step on a GPU. Runs begun
    with this class would not resume exactly.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.module: Model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        # Walking through the modules takes as long as the average itself.
        self._averaged: list[torch.Tensor] = list(self.module.parameters())
        self._current: list[torch.Tensor] = list(model.parameters())
        self._buffers = list(zip(_statistics(self.module), _statistics(model), strict=True))

    def rate(self, step: int) -> float:
        """Weight of the model after its optimiser step number ``step`` (from 0)."""
        return 1.0 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, rate: float | torch.Tensor, good: torch.Tensor) -> None:
        """Average with the model, whose weight is ``rate``.

        good: 0-dimensional bool on the device. Where it is false the average stays as it is, and
        the model's running statistics, which the bad batch has changed, become those of the last
        update.
        """
        if good.device.type == "cpu":
            if good:
                torch._foreach_lerp_(self._averaged, self._current, float(rate))
        else:
            # Without waiting for the device: a weight of zero is no change.
            change = torch._foreach_sub(self._current, self._averaged)
            torch._foreach_mul_(change, good * rate)
            torch._foreach_add_(self._averaged, change)
        for averaged, current in self._buffers:
            current.copy_(torch.where(good, current, averaged))
            averaged.copy_(current)


def _statistics(module: nn.Module) -> list[torch.Tensor]:
    """Buffers of the state that a checkpoint keeps; all others are constant tables."""
    state = module.state_dict()
    return [buffer for name, buffer in module.named_buffers() if name in state]
