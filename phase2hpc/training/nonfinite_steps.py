"""Counters of steps with NaN or infinite loss or gradient, and the rollback policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A single nonfinite step may be a bad batch; this many in a row mean that the model diverged.
MAX_CONSECUTIVE = 5
# Factor on the learning rate after a rollback.
LOWER_RATE = 0.1


class RollbackRequired(Exception):
    """Too many nonfinite steps in a row, for the first time: roll back to the last checkpoint."""


@dataclass
class NonfiniteSteps:
    """Numbers of skipped steps, part of a run's state.

    total: in the run. in_epoch: in the current epoch. consecutive: since the last good step.
    rate_factor: on the learning rate, below one after a rollback.
    """

    total: int = 0
    in_epoch: int = 0
    consecutive: int = 0
    rate_factor: float = 1.0

    @property
    def rolled_back(self) -> bool:
        return self.rate_factor < 1.0

    def count(self) -> bool:
        """Count a nonfinite step; True where there were too many in a row."""
        self.total += 1
        self.in_epoch += 1
        self.consecutive += 1
        return self.consecutive >= MAX_CONSECUTIVE

    def roll_back(self) -> None:
        """Reset the count in a row and lower the learning rate."""
        self.consecutive = 0
        self.rate_factor = LOWER_RATE

    def state_dict(self) -> dict[str, Any]:
        # "in_row": the name in checkpoints of schema version 3.
        return {
            "total": self.total,
            "in_epoch": self.in_epoch,
            "in_row": self.consecutive,
            "rate_factor": self.rate_factor,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> NonfiniteSteps:
        return cls(**{"consecutive" if key == "in_row" else key: state[key] for key in state})
