"""Loggers of a run's epochs (``--log``), each in the run directory; none of them can end a run.

csv, TensorBoard, and, as optional extras, Weights & Biases and MLflow. A logger is imported only if
it is asked for, and works without a network.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

from phase2hpc.config.run_config import RunConfig
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.dependencies import extra_with
from phase2hpc.utils.error_text import first_line

log = logging.getLogger(__name__)

Record = dict[str, Any]


@dataclass(frozen=True)
class LoggedRun:
    """A start of a run. step: at which it begins; what an earlier start logged beyond is void."""

    run: RunDirectory
    config: RunConfig
    step: int


class EpochLogger(Protocol):
    """Logger of a run, as a module of this package makes it by ``open_logger(LoggedRun)``."""

    def write(self, record: Record) -> None:
        """Log an epoch: a record of the run's history."""

    def close(self) -> None:
        """Write what is left."""


class EpochLoggers:
    """The loggers of these names; a context manager.

    One that fails, for whatever reason, is named in a warning and left out from then on.
    """

    def __init__(self, names: Sequence[str], logged: LoggedRun) -> None:
        self._loggers: dict[str, EpochLogger] = {}
        for name in names:
            self._guarded(name, partial(self._open, name, logged))

    def _open(self, name: str, logged: LoggedRun) -> None:
        module = importlib.import_module(f"phase2hpc.training.loggers.{name}")
        self._loggers[name] = module.open_logger(logged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for name, logger in list(self._loggers.items()):
            self._guarded(name, logger.close)

    def write(self, record: Record) -> None:
        for name, logger in list(self._loggers.items()):
            self._guarded(name, partial(logger.write, record))

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except ModuleNotFoundError as error:
            log.warning(
                "--log %s: %s is not installed (pip install 'phase2hpc[%s]'): the run continues "
                "without it", name, error.name, extra_with(error.name or "") or name,
            )  # fmt: skip
        except Exception as error:  # A logger of others may raise anything.
            log.warning("--log %s: %s: the run continues without it", name, first_line(error))
            failed = self._loggers.pop(name, None)
            with suppress(Exception):
                if failed is not None:
                    failed.close()


def flat_values(record: Record) -> dict[str, float]:
    """The numbers of a record: loss, rate and speed, and each property's training loss and
    validation MAE; without those that are not known."""
    values = {
        name: record[name] for name in ("train_loss", "val_score", "lr", "crystals_per_second")
    }
    for group in ("train_losses", "val_mae"):
        values |= {f"{group}/{name}": value for name, value in record[group].items()}
    return {name: value for name, value in values.items() if value is not None}
