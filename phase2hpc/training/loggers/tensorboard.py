"""``--log tensorboard``: scalars in the run's folder ``tensorboard``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
    RecordWriter,
)

from phase2hpc.runs import provenance
from phase2hpc.training.loggers.epoch_logger import LoggedRun, Record, flat_values


class TensorBoardLogger:
    """Writer of history records; entries of an earlier attempt beyond ``step`` are hidden.

    Raises OSError, as on a full disk. ``torch.utils.tensorboard.SummaryWriter`` was tried there:
    its thread dies with a traceback on stderr.
    """

    def __init__(self, folder: Path, step: int) -> None:
        name = f"events.out.tfevents.{time.time_ns()}.{provenance.host()}.{os.getpid()}"
        folder.mkdir(exist_ok=True)
        self._file = open(folder / name, "xb")  # noqa: SIM115 (closed by close)
        # At step 0 too: an attempt killed before its first checkpoint may have left events.
        start = SessionLog(status=SessionLog.START)
        self._append(
            Event(file_version="brain.Event:2"),
            Event(step=step + 1, session_log=start),
        )

    def write(self, record: Record) -> None:
        summary = Summary(
            value=[
                Summary.Value(tag=name, simple_value=value)
                for name, value in flat_values(record).items()
            ]
        )
        self._append(Event(step=record["step"], summary=summary))

    def close(self) -> None:
        self._file.close()

    def _append(self, *events: Event) -> None:
        records = RecordWriter(self._file)
        for event in events:
            event.wall_time = time.time()
            records.write(event.SerializeToString())
        records.flush()


def open_logger(logged: LoggedRun) -> TensorBoardLogger:
    return TensorBoardLogger(logged.run.tensorboard, logged.step)
