"""Steps whose numbers went wrong: skipped, counted, and when to go back or give up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# One bad step may be one bad batch; so many in a row are a model that has diverged.
MAX_CONSECUTIVE = 5
# What the learning rate is multiplied by after going back.
LOWER_RATE = 0.1


class RollbackRequired(Exception):
    """Too many bad steps in a row for the first time: on from the last good checkpoint."""


@dataclass
class NonfiniteSteps:
    """Bad steps so far, part of a run's state.

    total: all of them. in_epoch: in the epoch in work. in_row: since the last good one.
    rate_factor: of the learning rate, below one once the run went back.
    """

    total: int = 0
    in_epoch: int = 0
    in_row: int = 0
    rate_factor: float = 1.0

    @property
    def rolled_back(self) -> bool:
        return self.rate_factor < 1.0

    def count(self) -> bool:
        """One more; True where there have been too many in a row."""
        self.total += 1
        self.in_epoch += 1
        self.in_row += 1
        return self.in_row >= MAX_CONSECUTIVE

    def roll_back(self) -> None:
        """Begin again below the rate that failed."""
        self.in_row = 0
        self.rate_factor = LOWER_RATE

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)
