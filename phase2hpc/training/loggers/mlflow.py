"""``--log mlflow``: an MLflow run as files in the run's folder ``mlruns``.

From MLflow 3 on, files have to be allowed by a variable, also for ``mlflow ui``; the database that
it prefers needs locks, which a cluster's file system may not have.
"""

from __future__ import annotations

import os
import time

# The first is read at the import: nothing is to be sent from a compute node.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from phase2hpc.training.loggers.epoch_logger import (
    LoggedRun,
    Record,
    flat_values,
)

EXPERIMENT = "phase2hpc"
_TAG = "phase2hpc.run"


class MlflowLogger:
    """Writer of one MLflow run, which later starts of the run continue."""

    def __init__(self, logged: LoggedRun) -> None:
        run = logged.run
        self._client = MlflowClient(tracking_uri=(run.path / "mlruns").resolve().as_uri())
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        before = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'")
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(
            experiment, tags={_TAG: run.id}, run_name=run.id
        ).info.run_id
        settings = logged.config.identity()
        self._client.log_batch(
            self._id, params=[Param(key, str(value)) for key, value in settings.items()]
        )

    def write(self, record: Record) -> None:
        now = int(1000 * time.time())
        values = {"epoch": record["epoch"], **flat_values(record)}
        metrics = [Metric(key, float(value), now, record["step"]) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def open_logger(logged: LoggedRun) -> MlflowLogger:
    return MlflowLogger(logged)
