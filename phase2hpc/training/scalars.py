"""TensorBoard scalars of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter


class ScalarLog:
    """Writes a history record's numbers; entries after ``step`` of an earlier try are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        # At step 0 too: a try that was killed before its first checkpoint may have left some.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def write(self, record: dict[str, Any]) -> None:
        """One epoch: loss, rate and speed, and each property's training loss and validation MAE."""
        step = record["step"]
        for name in ("train_loss", "val_score", "lr", "crystals_per_second"):
            self._writer.add_scalar(name, record[name], step)
        for group in ("train_losses", "val_mae"):
            for name, value in record[group].items():
                if value is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()
