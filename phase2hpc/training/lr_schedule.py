"""The learning rate of a step, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from phase2hpc.config.run_config import TrainingSettings

MIN_LR_FRACTION = 1e-3


def learning_rate(settings: TrainingSettings, step: int, total_steps: int) -> float:
    """Rate of optimiser step ``step`` (from 0): linear warm-up, then half a cosine."""
    warmup = max(1, round(settings.warmup * total_steps))
    if step < warmup:
        return float(settings.lr * (step + 1) / warmup)
    # After a change of the batch size in mid-run there may be more steps than were planned.
    phase = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return float(settings.lr * max(MIN_LR_FRACTION, 0.5 * (1 + math.cos(math.pi * phase))))


def parameter_groups(
    model: nn.Module, loss: nn.Module, weight_decay: float
) -> list[dict[str, Any]]:
    """Matrices and element tables decay; biases, the gains of norms and task weights do not."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    free = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [*free, *loss.parameters()], "weight_decay": 0.0},
    ]
