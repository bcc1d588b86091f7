"""TensorBoard scalars of a run; a failure to write them does not stop training."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
    RecordWriter,
)

from phase2hpc.runs import provenance

log = logging.getLogger(__name__)


class TensorBoardLog:
    """Writer of history records; entries of an earlier attempt beyond ``step`` are hidden.

    On an error (a full disk) it logs one warning and stops writing.
    ``torch.utils.tensorboard.SummaryWriter`` was tried on a full disk: its thread dies with a
    traceback on stderr, and a later ``add_scalar`` raises in the training loop.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._file: BinaryIO | None = None
        name = f"events.out.tfevents.{time.time_ns()}.{provenance.host()}.{os.getpid()}"
        self._path = folder / name
        try:
            folder.mkdir(exist_ok=True)
            self._file = open(self._path, "xb")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            self._give_up(error)
            return
        # At step 0 too: an attempt killed before its first checkpoint may have left events.
        start = SessionLog(status=SessionLog.START)
        self._append(
            Event(file_version="brain.Event:2"),
            Event(step=step + 1, session_log=start),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, record: dict[str, Any]) -> None:
        """One epoch: loss, rate and speed, and each property's training loss and validation MAE."""
        values = {
            name: record[name] for name in ("train_loss", "val_score", "lr", "crystals_per_second")
        }
        for group in ("train_losses", "val_mae"):
            values |= {f"{group}/{name}": value for name, value in record[group].items()}
        summary = Summary(
            value=[
                Summary.Value(tag=name, simple_value=value)
                for name, value in values.items()
                if value is not None
            ]
        )
        self._append(Event(step=record["step"], summary=summary))

    def _append(self, *events: Event) -> None:
        if self._file is None:
            return
        try:
            records = RecordWriter(self._file)
            for event in events:
                event.wall_time = time.time()
                records.write(event.SerializeToString())
            records.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning(
            "%s: cannot be written (%s): the run continues without TensorBoard scalars",
            self._path,
            error.strerror,
        )
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as again:
                log.debug("%s: %s", self._path, again.strerror)
