"""Predictions as table rows: CSV, JSON, DataFrame and text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from phase2hpc.utils import tables
from phase2hpc.utils.record_files import write_records

if TYPE_CHECKING:
    import pandas as pd

STATUSES = ("ok", "rejected", "failed")
# Counted beside the statuses.
OUTSIDE = "outside"
# Columns of a property after its name.
KINDS = ("", "_sigma", "_low", "_high")


@dataclass
class Prediction:
    """Prediction for one structure.

    status: "ok", "rejected" (not a valid structure) or "failed" (it could not be read, or the model
    failed), for the given ``reason``. values, sigmas, lows and highs: by property, where there is
    one and the status is "ok". in_domain: False if the crystal is unlike the training data, for
    the given ``reason``, and where there is no prediction.
    vector: (F,) output of the encoder of a single model.
    """

    id: str
    input: str
    formula: str
    status: str
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    sigmas: dict[str, float] = field(default_factory=dict)
    lows: dict[str, float] = field(default_factory=dict)
    highs: dict[str, float] = field(default_factory=dict)
    in_domain: bool = False
    vector: npt.NDArray[np.floating] | None = None


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
            by_kind = (row.values, row.sigmas, row.lows, row.highs)
            for kind, values in zip(KINDS, by_kind, strict=True):
                record[f"{name}{kind}"] = values.get(name)
        record["in_domain"] = row.in_domain
        yield record


def as_frame(rows: Iterable[Prediction], properties: Sequence[str]) -> pd.DataFrame:
    """The table as a DataFrame: text, float64 (NaN: no value), and ``in_domain`` as bool."""
    import pandas as pd

    numeric = [f"{name}{kind}" for name in properties for kind in KINDS]
    frame = pd.DataFrame(list(as_records(rows, properties)), columns=columns(properties))
    return frame.astype(dict.fromkeys(numeric, "float64") | {"in_domain": "bool"})


def write_predictions(path: Path, rows: Iterable[Prediction], properties: Sequence[str]) -> None:
    """Write rows as CSV, or as JSON if the name ends in .json; completely or not at all."""
    write_records(path, as_records(rows, properties), columns(properties))


def table(
    rows: Sequence[Prediction],
    properties: Sequence[str],
    units: Mapping[str, str],
    interval: float,
) -> str:
    """Rows as text: one line per property for one structure, else one line per structure.

    interval: coverage of the intervals.
    """
    if len(rows) == 1 and rows[0].status == "ok":
        row = rows[0]
        lines = [
            [
                name,
                tables.number(row.values.get(name)),
                tables.number(row.sigmas.get(name), 2),
                _interval(row, name),
                units.get(name) or tables.ABSENT,
            ]
            for name in properties
        ]
        header = (
            f"{row.id} ({row.formula})",
            "prediction",
            "sigma",
            f"{100 * interval:g}% interval",
            "unit",
        )
        text = tables.aligned(header, lines)
    else:
        names = [f"{p} ({units[p]})" if units.get(p) else p for p in properties]
        body = [
            [row.id, row.formula, *(_with_sigma(row, name) for name in properties)] for row in rows
        ]
        text = tables.aligned(["id", "formula", *names], body, left=2)
        if any(row.sigmas for row in rows):
            text += "\nin brackets: sigma"
    notes = [f"{row.id}: {row.status}: {row.reason}" for row in rows if row.status != "ok"]
    notes += [
        f"{row.id}: outside the model's domain ({row.reason}): do not rely on it"
        for row in rows
        if row.status == "ok" and not row.in_domain
    ]
    return "\n".join([text, *notes])


def _with_sigma(row: Prediction, name: str) -> str:
    value, sigma = row.values.get(name, math.nan), row.sigmas.get(name)
    if math.isnan(value):
        return tables.ABSENT
    return tables.number(value) + ("" if sigma is None else f" ({tables.number(sigma, 2)})")


def _interval(row: Prediction, name: str) -> str:
    if name not in row.lows or name not in row.highs:
        return tables.ABSENT
    return f"{tables.number(row.lows[name], 3)} to {tables.number(row.highs[name], 3)}"


def counted(
    chunks: Iterable[Iterable[dict[str, Any]]], counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The records of all chunks, each counted by ``count_record``."""
    for record in chain.from_iterable(chunks):
        count_record(counts, record)
        yield record


def count_record(counts: Counter[str], record: Mapping[str, Any]) -> None:
    """Count a record of ``as_records`` by status, and among OUTSIDE where it is not in domain."""
    counts[record["status"]] += 1
    if record["status"] == "ok" and not record["in_domain"]:
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
