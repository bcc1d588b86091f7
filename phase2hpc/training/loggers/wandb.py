"""``--log wandb``: an offline run of Weights & Biases in the run directory, for ``wandb sync``."""

from __future__ import annotations

import os

# Read at the import: nothing is to be sent from a compute node.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from phase2hpc.training.loggers.epoch_logger import (
    LoggedRun,
    Record,
    flat_values,
)

PROJECT = "phase2hpc"


class WandbLogger:
    """One offline run per start, all with the run's id, so that they are synchronised as one."""

    def __init__(self, logged: LoggedRun) -> None:
        self._run = wandb.init(
            project=PROJECT,
            id=logged.run.id,
            name=logged.run.id,
            dir=logged.run.path,
            config=logged.config.model_dump(mode="json"),
            # Steps that an earlier start logged beyond its last checkpoint are repeated.
            resume="allow",
            mode="offline",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, record: Record) -> None:
        self._run.log({"epoch": record["epoch"], **flat_values(record)}, step=record["step"])

    def close(self) -> None:
        self._run.finish()


def open_logger(logged: LoggedRun) -> WandbLogger:
    return WandbLogger(logged)
