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
    with its own initial weights. Buffers (running statistics) are copied.

    ``torch.optim.swa_utils.AveragedModel`` is not used: it counts updates instead of steps, so that
    skipped steps shift the decay; its first update replaces the initial weights; and it passes the
    count as a tensor, from which such a decay costs a synchronisation per step on a GPU. Runs begun
    with this class would not resume exactly.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.module: Model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Average with ``model`` after its optimiser step number ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged: list[torch.Tensor] = list(self.module.parameters())
        current: list[torch.Tensor] = list(model.parameters())
        torch._foreach_lerp_(averaged, current, 1.0 - decay)
        for target, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            target.copy_(buffer)
