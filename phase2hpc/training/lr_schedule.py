"""Learning-rate schedule and parameter groups of the optimiser."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from phase2hpc.config.settings import TrainingSettings

MIN_LR_FRACTION = 1e-3


def learning_rate(settings: TrainingSettings, step: int, total_steps: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0): linear warm-up, then half a cosine."""
    warmup = max(1, round(settings.warmup * total_steps))
    if step < warmup:
        return float(settings.lr * (step + 1) / warmup)
    # A change of the batch size in a run may lead to more steps than planned.
    phase = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return float(settings.lr * max(MIN_LR_FRACTION, 0.5 * (1 + math.cos(math.pi * phase))))


def parameter_groups(
    model: nn.Module, loss: nn.Module, weight_decay: float
) -> list[dict[str, Any]]:
    """Weight decay on matrices and embeddings; none on biases, norms and task weights."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    free = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [*free, *loss.parameters()], "weight_decay": 0.0},
    ]
