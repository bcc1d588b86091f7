"""Predictions as table rows: CSV, JSON, DataFrame and text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.utils import tables
from phase2hpc.utils.record_files import write_records

if TYPE_CHECKING:
    import pandas as pd

STATUSES = ("ok", "rejected", "failed")
# Counted beside the statuses.
OUTSIDE = "outside"


@dataclass
class Prediction:
    """Prediction for one structure.

    status: "ok", "rejected" (not a valid structure) or "failed" (it could not be read, or the model
    failed), for the given ``reason``. values and sigmas: by property,
    empty unless the status is "ok". in_domain: False if an element does not occur in the training
    data, else None (not known).
    """

    id: str
    input: str
    formula: str
    status: str
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    sigmas: dict[str, float] = field(default_factory=dict)
    in_domain: bool | None = None


def columns(properties: Sequence[str]) -> list[str]:
    """Column names of the table."""
    return list(next(as_records([Prediction("", "", "", "")], properties)))


def as_records(rows: Iterable[Prediction], properties: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows as flat records with the columns of the table; None where there is no value."""
    for row in rows:
        record: dict[str, Any] = {
            "id": row.id,
            "input": row.input,
            "formula": row.formula,
            "status": row.status,
            "reason": row.reason,
        }
        for name in properties:
            record[name] = row.values.get(name)
            record[f"{name}_sigma"] = row.sigmas.get(name)
        record["in_domain"] = row.in_domain
        yield record


def as_frame(rows: Iterable[Prediction], properties: Sequence[str]) -> pd.DataFrame:
    """The table as a DataFrame: text, float64 (NaN: no value), and ``in_domain`` as boolean with
    ``<NA>``."""
    import pandas as pd

    numeric = [f"{name}{kind}" for name in properties for kind in ("", "_sigma")]
    frame = pd.DataFrame(list(as_records(rows, properties)), columns=columns(properties))
    return frame.astype(dict.fromkeys(numeric, "float64") | {"in_domain": "boolean"})


def write_predictions(path: Path, rows: Iterable[Prediction], properties: Sequence[str]) -> None:
    """Write rows as CSV, or as JSON if the name ends in .json; completely or not at all."""
    write_records(path, as_records(rows, properties), columns(properties))


def table(rows: Sequence[Prediction], properties: Sequence[str], units: Mapping[str, str]) -> str:
    """Rows as text: one line per property for one structure, else one line per structure."""
    if len(rows) == 1 and rows[0].status == "ok":
        row = rows[0]
        lines = [
            [name, _with_sigma(row, name), units.get(name) or tables.ABSENT] for name in properties
        ]
        text = tables.aligned((f"{row.id} ({row.formula})", "prediction", "unit"), lines)
    else:
        header = [
            "id",
            "formula",
            *(f"{p} ({units[p]})" if units.get(p) else p for p in properties),
        ]
        body = [
            [row.id, row.formula, *(_with_sigma(row, name) for name in properties)] for row in rows
        ]
        text = tables.aligned(header, body, left=2)
    notes = [f"{row.id}: {row.status}: {row.reason}" for row in rows if row.status != "ok"]
    notes += [
        f"{row.id}: outside the model's domain ({row.reason}): do not rely on it"
        for row in rows
        if row.in_domain is False
    ]
    return "\n".join([text, *notes])


def _with_sigma(row: Prediction, name: str) -> str:
    value, sigma = row.values.get(name, math.nan), row.sigmas.get(name)
    if math.isnan(value):
        return tables.ABSENT
    return f"{value:.4g}" if sigma is None else tables.with_error(value, sigma)


def count_record(counts: Counter[str], record: Mapping[str, Any]) -> None:
    """Count a record of ``as_records`` by status, and among OUTSIDE where it is not in domain."""
    counts[record["status"]] += 1
    if record["in_domain"] is False:
        counts[OUTSIDE] += 1


def counts_text(counts: Counter[str]) -> str:
    """``3 structures: 2 ok, 1 rejected``."""
    total = sum(counts[status] for status in STATUSES)
    parts = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
    if counts[OUTSIDE]:
        parts.append(f"{counts[OUTSIDE]} outside the domain of training")
    noun = "structure" if total == 1 else "structures"
    return f"{total} {noun}: {', '.join(parts)}"


def summary_line(counts: Counter[str], model: str, output: Path | None) -> str:
    """Number of structures by status, the model (``describe_model``) and the output file."""
    line = f"{counts_text(counts)}; by {model}"
    return line + (f" -> {output}" if output else "")
