"""Counts of the label cells of a source that are no plain numbers, column by column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from phase2hpc.data.readers.labels import NOT_TAKEN, Kind, Labels
from phase2hpc.errors import InputError
from phase2hpc.utils.text import one_line

# Cells of a column that the report names one by one.
MAX_CELLS = 1000


@dataclass
class CellCount:
    """Number of cells of one kind in a column, and text and place of the first."""

    count: int
    text: str
    place: str


@dataclass
class ColumnReport:
    """Cells of one label column.

    cells: all. numbers: those taken. missing: missing markers. kinds: the others by kind.
    not_numbers: (id, text, place) of the first MAX_CELLS that are not a number. unit: as the
    column's header gives it.
    """

    cells: int = 0
    numbers: int = 0
    missing: int = 0
    unit: str = ""
    kinds: dict[Kind, CellCount] = field(default_factory=dict)
    not_numbers: list[tuple[str, str, str]] = field(default_factory=list)


class LabelReport:
    """``ColumnReport`` by property name; reports of consecutive batches can be added.

    renamed: (source, old name) of the columns that were given another name.
    """

    def __init__(self) -> None:
        self.columns: dict[str, ColumnReport] = {}
        self.renamed: set[tuple[str, str]] = set()

    def add_record(self, identifier: str, place: str, labels: Mapping[str, float]) -> None:
        """Count the label cells of one record. place: of the record, "file:line" or "file#number".

        Raises InputError where a column has another unit than in an earlier record.
        """
        for name in labels:
            column = self._column(name)
            column.cells += 1
            column.numbers += 1
        if not isinstance(labels, Labels):
            return
        where = labels.place or place
        for name in labels.missing:
            column = self._column(name)
            column.cells += 1
            column.missing += 1
        for name, kind, text in labels.cells:
            column = self._column(name)
            column.cells += kind in NOT_TAKEN and name not in labels
            first = column.kinds.setdefault(kind, CellCount(0, text, where))
            first.count += 1
            if kind == "text" and len(column.not_numbers) < MAX_CELLS:
                column.not_numbers.append((identifier, text, where))
        for name, unit in labels.units.items():
            self._set_unit(name, unit)
        self.renamed |= labels.renamed

    def add(self, later: LabelReport) -> None:
        """Add the report of the records that follow. Raises InputError as ``add_record``."""
        for name, new in later.columns.items():
            column = self._column(name)
            column.cells += new.cells
            column.numbers += new.numbers
            column.missing += new.missing
            for kind, cells in new.kinds.items():
                first = column.kinds.setdefault(kind, CellCount(0, cells.text, cells.place))
                first.count += cells.count
            room = MAX_CELLS - len(column.not_numbers)
            column.not_numbers += new.not_numbers[: max(0, room)]
            self._set_unit(name, new.unit)
        self.renamed |= later.renamed

    def check_renames(self, renames: Mapping[tuple[str, str], str]) -> None:
        """InputError for a new name of a column that its source, or any where it names none, has
        not. renames: as of ``parse_renames``."""
        everywhere = {old for _, old in self.renamed}
        names = ", ".join(self.columns) or "none"
        for (source, old), new in renames.items():
            if source and (source, old) not in self.renamed:
                raise InputError(
                    f"--rename {source}:{old}={new}: no label column '{old}' in {source}, in all "
                    f"sources there are: {names}"
                )
            if old not in everywhere:
                raise InputError(
                    f"--rename {old}={new}: no label column '{old}', there are: {names}"
                )

    def _column(self, name: str) -> ColumnReport:
        found = self.columns.get(name)
        if found is None:
            found = self.columns[name] = ColumnReport()
        return found

    def _set_unit(self, name: str, unit: str) -> None:
        column = self._column(name)
        if unit and column.unit and unit != column.unit:
            raise InputError(
                f"column '{name}' is in {column.unit} and in {unit}: convert one of them, or give "
                "it another name (--rename)"
            )
        column.unit = column.unit or unit

    @property
    def units(self) -> dict[str, str]:
        """Units that headers give, by property."""
        return {name: column.unit for name, column in self.columns.items() if column.unit}

    @property
    def not_numbers(self) -> dict[str, int]:
        """Number of cells that are not a number, by column, for columns that have any."""
        return {
            name: column.kinds["text"].count
            for name, column in self.columns.items()
            if "text" in column.kinds
        }

    def lines(self) -> list[str]:
        """One line for each kind of cell that a column has, not-a-number first."""
        return [text for _, text in sorted(self._lines(), key=lambda line: line[0])]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Rows (id, reason, input) of a rejects report: each cell that is not a number, then the
        column's own line with an empty id. Of a column without a single number, the line alone."""
        for name, column in self.columns.items():
            if column.numbers:
                for identifier, text, place in column.not_numbers:
                    yield identifier, f"label: {name} is {text!r}, not a number", place
            for kind, cells in column.kinds.items():
                reason = f"label: {_line(name, column, kind, cells)}"
                yield "", reason, _LOCATION.sub("", cells.place)

    def _lines(self) -> Iterator[tuple[int, str]]:
        for name, column in self.columns.items():
            for kind, cells in column.kinds.items():
                yield kind not in NOT_TAKEN, _line(name, column, kind, cells)

    def to_json(self) -> dict[str, Any]:
        columns = {name: asdict(column) for name, column in self.columns.items()}
        return {"columns": columns, "renamed": sorted(self.renamed)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LabelReport:
        """The report that ``to_json`` came from."""
        report = cls()
        report.renamed = {(source, old) for source, old in values["renamed"]}
        for name, value in values["columns"].items():
            column = ColumnReport(**value)
            column.kinds = {kind: CellCount(**cells) for kind, cells in value["kinds"].items()}
            column.not_numbers = [tuple(cell) for cell in value["not_numbers"]]
            report.columns[name] = column
        return report


_LOCATION = re.compile(r"[:#]\d+$")


def describe_place(place: str) -> str:
    """ "line 3 of t.csv" for "folder/t.csv:3", "record 3 of t.json" for "folder/t.json#3"."""
    path, number = _LOCATION.sub("", place), place[len(_LOCATION.sub("", place)) :]
    name = path.rpartition("/")[2]
    if not number:
        return name
    return f"{'line' if number[0] == ':' else 'record'} {number[1:]} of {name}"


def _line(name: str, column: ColumnReport, kind: Kind, cells: CellCount) -> str:
    first = f"first {cells.text!r} in {describe_place(cells.place)}"
    count = cells.count
    cell = "cell" if count == 1 else "cells"
    if kind == "text":
        verb = "is" if count == 1 else "are"
        text = f"{count} of {column.cells} cells {verb} not a number, {first}"
    elif kind == "boolean":
        text = f"{count} {cell} true or false, read as 1 or 0, {first}"
    elif kind == "comma":
        text = f"{count} {cell} with a decimal comma, read as a point, {first}"
    elif kind == "minus":
        text = f"{count} {cell} with a Unicode minus, read as '-', {first}"
    elif kind == "duplicate":
        text = (
            f"{count} {cell} of column {cells.text!r} not taken: another column has the same name "
            f"and other values (rename one), first in {describe_place(cells.place)}"
        )
    else:
        text = (
            f"{count} {cell} of column {cells.text!r} not taken: {name} has another unit here "
            f"(convert it, or rename the column), first in {describe_place(cells.place)}"
        )
    return one_line(f"{name}: {text}")
