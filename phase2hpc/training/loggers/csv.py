"""``--log csv``: one line per epoch in history.csv."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from phase2hpc.training.loggers.epoch_logger import LoggedRun, Record, flat_values
from phase2hpc.utils.atomic_io import write_atomically


class CsvLogger:
    """Rewrites the file with each epoch, so that it is whole at any time."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._rows: list[dict[str, object]] = []
        if path.exists():
            with path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def write(self, record: Record) -> None:
        self._rows.append({"epoch": record["epoch"], "step": record["step"], **flat_values(record)})
        # A property may have no value in some epochs.
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, names, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows)
        write_atomically(self._path, text.getvalue())

    def close(self) -> None:
        pass


def open_logger(logged: LoggedRun) -> CsvLogger:
    return CsvLogger(logged.run.history.with_suffix(".csv"), logged.step)
