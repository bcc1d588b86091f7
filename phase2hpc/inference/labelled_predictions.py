"""Predictions beside labels, as in predictions_val.csv and predictions_test.csv of a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from phase2hpc.config.properties import COLUMN_SUFFIXES
from phase2hpc.data.composition import reduced_formula
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.os_errors import path_error

if TYPE_CHECKING:
    from phase2hpc.inference.uncertainty import Estimate

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelledPredictions:
    """Predictions and labels of N crystals.

    ids, formulas: (N,); a formula is "" where it is not known. atoms: (N,) in the cell, 0 where
    not known. target, prediction, sigma, low, high: (N,) by property in its unit, NaN where there
    is none; low and high are the bounds of the interval of DEFAULT_COVERAGE.
    """

    ids: Sequence[str]
    formulas: Sequence[str]
    atoms: npt.NDArray[np.int64]
    target: Mapping[str, Array]
    prediction: Mapping[str, Array]
    sigma: Mapping[str, Array] = field(default_factory=dict)
    low: Mapping[str, Array] = field(default_factory=dict)
    high: Mapping[str, Array] = field(default_factory=dict)

    @property
    def properties(self) -> tuple[str, ...]:
        return tuple(self.prediction)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_store(
        cls,
        store: Store,
        indices: npt.NDArray[np.int64],
        properties: Sequence[str],
        prediction: Array,
        target: Array,
        estimate: Estimate,
    ) -> LabelledPredictions:
        """Those of crystals of a store; the arrays are (N, P)."""
        return cls(
            store.ids(indices),
            [reduced_formula(numbers) for numbers in store.atomic_numbers(indices)],
            store.node_ptr[indices + 1] - store.node_ptr[indices],
            _by_name(properties, target),
            _by_name(properties, prediction),
        ).with_estimate(estimate)

    def with_estimate(self, estimate: Estimate) -> LabelledPredictions:
        """The same with this uncertainty, whose arrays are (N, P)."""
        names = self.properties
        return replace(
            self,
            sigma=_by_name(names, estimate.sigma),
            low=_by_name(names, estimate.low),
            high=_by_name(names, estimate.high),
        )

    def sigma_of(self, name: str) -> Array:
        """Sigma of a property, NaN where there is none."""
        return self._known(self.sigma, name)

    def interval_of(self, name: str) -> tuple[Array, Array]:
        """Lower and upper bounds of the interval of a property, NaN where there is none."""
        return self._known(self.low, name), self._known(self.high, name)

    def _known(self, values: Mapping[str, Array], name: str) -> Array:
        return values.get(name, np.full(len(self), np.nan))

    def error(self, name: str) -> Array:
        """Prediction minus label, NaN where either is missing."""
        return self.prediction[name] - self.target[name]

    def rows(self) -> list[dict[str, Any]]:
        """One record per crystal with the columns of the file; None where there is no value."""
        columns: dict[str, list[float]] = {}
        for name in self.properties:
            values = (
                self.target[name], self.prediction[name], self.sigma_of(name),
                *self.interval_of(name), self.error(name),
            )  # fmt: skip
            columns |= {
                f"{name}{kind}": value.tolist()
                for kind, value in zip(COLUMN_SUFFIXES, values, strict=True)
            }
        return [
            {
                "id": self.ids[row],
                "formula": self.formulas[row],
                "atoms": int(self.atoms[row]) or None,
                **{
                    key: None if math.isnan(value[row]) else value[row]
                    for key, value in columns.items()
                },
            }
            for row in range(len(self))
        ]

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all."""
        header = ["id", "formula", "atoms"]
        header += [f"{name}{suffix}" for name in self.properties for suffix in COLUMN_SUFFIXES]
        text = io.StringIO()
        writer = csv.DictWriter(text, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in self.rows())
        write_atomically(path, text.getvalue())


def read_labelled_predictions(path: Path) -> LabelledPredictions:
    """Read such a file, also one of 0.1.0 without formula, atoms and uncertainty.

    Raises InputError for a file that is missing or malformed.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except OSError as error:
        raise path_error(error, f"{path}: cannot be read") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a run's predictions ({error})") from None
    names = [
        column.removesuffix("_target")
        for column in header
        if column.endswith("_target") and column.removesuffix("_target") in header
    ]
    if "id" not in header or not names:
        raise InputError(f"{path}: not a run's predictions (no column id, or no label beside one)")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path}:{line}: not as many cells as columns: the file is damaged")
    try:
        return LabelledPredictions(
            [row["id"] for row in rows],
            [row.get("formula") or "" for row in rows],
            np.array([int(row.get("atoms") or 0) for row in rows], dtype=np.int64),
            {name: _column(rows, f"{name}_target") for name in names},
            {name: _column(rows, name) for name in names},
            *(
                {name: _column(rows, name + kind) for name in names if name + kind in header}
                for kind in ("_sigma", "_low", "_high")
            ),
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a run's predictions ({error})") from None


def _column(rows: Sequence[Mapping[str, str]], name: str) -> Array:
    return np.array([float(row[name] or "nan") for row in rows], dtype=np.float64)


def _by_name(properties: Sequence[str], values: Array) -> dict[str, Array]:
    return {name: values[:, column] for column, name in enumerate(properties)}


def _cell(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value
