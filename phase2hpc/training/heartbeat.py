"""Heartbeat of a training process: position, speed and loss, in its lease."""

from __future__ import annotations

import time
from typing import Any

from phase2hpc.runs.lease import SECONDS_PER_BEAT, Lease
from phase2hpc.training.trainer import Trainer
from phase2hpc.utils.progress import Progress


class Heartbeat:
    """Writes to ``lease`` at most every SECONDS_PER_BEAT; does nothing without one."""

    def __init__(self, trainer: Trainer, lease: Lease | None) -> None:
        self._trainer, self._lease = trainer, lease
        self._last = time.monotonic()

    def beat(
        self,
        progress: Progress | None = None,
        seconds_left: float | None = None,
        phase: str = "training",
    ) -> None:
        """Write if due, and at once when another phase than training begins."""
        now = time.monotonic()
        due = now - self._last > SECONDS_PER_BEAT or phase != "training"
        if self._lease is None or not due:
            return
        self._last = now
        trainer = self._trainer
        values: dict[str, Any] = {"phase": phase, "loss": trainer.mean_loss()}
        if progress is not None and progress.per_second > 0:
            values["crystals_per_second"] = progress.per_second
        if seconds_left is not None:
            values["seconds_left"] = seconds_left
        self._lease.beat(
            epoch=trainer.epoch,
            epochs=trainer.settings.epochs,
            step=trainer.step,
            total_steps=trainer.total_steps,
            **values,
        )
