"""Summary of a preparation: counts of crystals, labels, rejections and label cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phase2hpc.config.properties import ColumnSettings, in_order, shown_name
from phase2hpc.data.convert import Converted
from phase2hpc.data.readers.label_report import LabelReport
from phase2hpc.data.split_counts import SplitCounts
from phase2hpc.data.splits import SPLITS

# Lines about label cells that the summary shows; the rejects report has all.
MAX_LABEL_LINES = 12


@dataclass
class PrepareSummary(SplitCounts):
    """Counts of one preparation.

    rejects_report: a CSV of id, reason and input of each rejected crystal and of the label cells
    that are not numbers. not_numbers: their count by column. label_cells: the
    report of them. columns: settings of the label columns, units from headers included. notes:
    further lines.
    """

    store: Path
    rejects_report: Path
    read: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    not_numbers: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    content_hash: str = ""
    already_there: bool = False
    label_cells: LabelReport = field(default_factory=LabelReport)
    columns: Mapping[str, ColumnSettings] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The fields of ``--json``."""
        return {
            "store": str(self.store),
            "rejects_report": str(self.rejects_report),
            "content_hash": self.content_hash,
            "already_there": self.already_there,
            **{name: getattr(self, name) for name in _STORED},
            "units": {name: column.unit for name, column in self.columns.items()},
            "notes": [*self._label_lines(), *self.notes],
        }

    def lines(self) -> list[str]:
        """The summary as text."""
        if self.already_there:
            first = f"{self.store} exists already, made from the same sources and settings"
        else:
            rate = self.read / max(self.seconds, 1e-9)
            first = f"{self.store}: {self.seconds:.1f} s, {rate:,.0f} crystals/s"
        left_out = sum(self.rejected.values())
        lines = [first, f"  in {self.read:,}   kept {self.kept:,}   rejected {left_out:,}"]
        lines += [f"    {count:,} x {kind}" for kind, count in sorted(self.rejected.items())]
        if left_out:
            lines.append(f"    reasons in {self.rejects_report}")
        lines.append(f"  {'':<28}{''.join(f'{name:>10}' for name in SPLITS)}")
        lines.append(f"  {'crystals':<28}{_row(self.splits)}")
        for name in in_order(self.labels):
            lines.append(f"  {shown_name(name, self.columns):<28}{_row(self.labels[name])}")
        cells = self._label_lines()
        lines += [f"  {line}" for line in cells[:MAX_LABEL_LINES]]
        if more := len(cells) - MAX_LABEL_LINES:
            lines += [f"  and {more} more lines of this kind"] if more > 0 else []
        if self.not_numbers:
            lines.append(f"    cells that are not numbers, one by one: {self.rejects_report}")
        return lines + [f"  {note}" for note in self.notes]

    def _label_lines(self) -> list[str]:
        if not self.already_there:
            return self.label_cells.lines()
        return [
            f"{name}: {count:,} cell{'s are' if count > 1 else ' is'} not a number"
            for name, count in self.not_numbers.items()
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def count(self, batch: Converted) -> None:
        """Add one batch."""
        self.read += batch.read
        self.kept += len(batch.graphs)
        for rejection in batch.rejections:
            self.rejected[rejection.kind] = self.rejected.get(rejection.kind, 0) + 1
        self.label_cells.add(batch.labels)
        self.not_numbers = self.label_cells.not_numbers
        self.add(batch.graphs)

    def stored(self) -> dict[str, Any]:
        """Counts to store in the store's attributes."""
        counts = {name: getattr(self, name) for name in _STORED}
        return {key: value for key, value in counts.items() if value or key != "not_numbers"}


_STORED = ("splits", "labels", "read", "kept", "rejected", "not_numbers", "seconds")


def _row(counts: Mapping[str, int]) -> str:
    return "".join(f"{counts.get(name, 0):>10,}" for name in SPLITS)
