"""Rejects report: a CSV of the crystals and label cells left out of a store, with reasons."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from phase2hpc.data.convert import Rejection
from phase2hpc.data.readers.label_report import LabelReport
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.os_errors import write_error


def rejects_path(store: Path, *, failed: bool = False) -> Path:
    """Path of the rejects report of a store, or of a failed attempt to replace the store."""
    return store.with_name(f"{store.name}{'.failed' if failed else ''}.rejects.csv")


class RejectsReport:
    """CSV of id, reason and input: ``path`` beside a new store, ``of_failure`` if no store was
    written because of the input."""

    def __init__(self, path: Path, of_failure: Path) -> None:
        self._path = path
        self._of_failure = of_failure

    def __enter__(self) -> RejectsReport:
        try:
            self._partial = PartialFile(self._path)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._file = self._partial.path.open(
                "w", newline="", encoding="utf-8", errors="backslashreplace"
            )
        except OSError as error:
            self._partial.discard()
            raise self._failed(error) from error
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(["id", "reason", "input"])
        return self

    def add(self, rejections: Iterable[Rejection]) -> None:
        self._write((item.id, item.reason, item.input) for item in rejections)

    def add_label_cells(self, cells: LabelReport) -> None:
        """Add the label cells that are not plain numbers, and a line for each column of them."""
        self._write(cells.rows())

    def _write(self, rows: Iterable[tuple[str, str, str]]) -> None:
        try:
            self._writer.writerows(rows)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None:
                self._partial.commit()
            elif issubclass(kind, InputError):
                self._partial.target = self._of_failure
                self._partial.commit()
        except OSError as failure:
            # If the attempt has already failed, its first error is raised.
            if kind is None:
                raise self._failed(failure) from failure
        finally:
            self._partial.discard()

    def _failed(self, error: OSError) -> Phase2Error:
        return write_error(error, f"cannot write {self._path}", note="no store was written")
