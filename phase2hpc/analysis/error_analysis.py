"""Test errors in parts: by element, by number of atoms, against sigma, and the worst structures."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from phase2hpc.data.elements import ATOMIC_NUMBERS
from phase2hpc.inference.coverage import DEFAULT_COVERAGE
from phase2hpc.inference.labelled_predictions import LabelledPredictions

Array = npt.NDArray[np.float64]
# Lower bounds of the groups by number of atoms in the cell.
SIZES = (1, 3, 5, 9, 17, 33, 65)
# Nominal probabilities of the central intervals whose coverage is counted.
LEVELS = np.linspace(0.05, 0.95, 19)
MAX_BINS, MIN_PER_BIN = 10, 10
# Labels are single precision, and so are the bounds in the file of predictions.
ROUNDING = 1e-6


@dataclass(frozen=True)
class MeanError:
    """Mean absolute error of n crystals, with its standard error (None for one crystal)."""

    mae: float
    se: float | None
    n: int

    @classmethod
    def of(cls, errors: Array) -> MeanError:
        """Mean of one or more errors, by their size."""
        size = np.abs(errors)
        several = len(size) > 1
        se = float(size.std(ddof=1) / math.sqrt(len(size))) if several else None
        return cls(float(size.mean()), se, len(size))


@dataclass(frozen=True)
class Structure:
    """One structure's label and prediction."""

    id: str
    formula: str
    target: float
    prediction: float
    sigma: float | None

    @property
    def error(self) -> float:
        return self.prediction - self.target


def by_element(table: LabelledPredictions, name: str) -> dict[str, MeanError]:
    """Errors of the crystals that contain an element, by its symbol."""
    errors = table.error(name)
    rows: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(np.isfinite(errors)).tolist():
        for symbol in elements_of(table.formulas[row]):
            rows[symbol].append(row)
    return {
        symbol: MeanError.of(errors[rows[symbol]])
        for symbol in sorted(rows, key=ATOMIC_NUMBERS.__getitem__)
    }


def elements_of(formula: str) -> set[str]:
    """Symbols of the elements in a formula."""
    return set(re.findall(r"[A-Z][a-z]?", formula)) & ATOMIC_NUMBERS.keys()


def by_size(table: LabelledPredictions, name: str) -> dict[str, MeanError]:
    """Errors by the number of atoms in the cell, as ``5-8``; empty where it is not known."""
    errors = table.error(name)
    found = {}
    for low, high in pairwise([*SIZES, np.inf]):
        there = errors[np.isfinite(errors) & (table.atoms >= low) & (table.atoms < high)]
        label = f"{low:g}-{high - 1:g}" if math.isfinite(high) else f"{low:g}+"
        if len(there):
            found[label] = MeanError.of(there)
    return found


def worst(table: LabelledPredictions, name: str, count: int) -> list[Structure]:
    """The structures with the largest absolute errors, the largest first."""
    errors, sigmas = np.abs(table.error(name)), table.sigma_of(name)
    known = np.flatnonzero(np.isfinite(errors))
    order = known[np.argsort(-errors[known], kind="stable")][:count]
    return [
        Structure(
            table.ids[row],
            table.formulas[row],
            float(table.target[name][row]),
            float(table.prediction[name][row]),
            float(sigmas[row]) if np.isfinite(sigmas[row]) else None,
        )
        for row in order.tolist()
    ]


@dataclass(frozen=True)
class Coverage:
    """Share of n labels inside the interval of their prediction.

    se: standard error of DEFAULT_COVERAGE among n crystals. within_sigma: share of errors below
    sigma.
    """

    share: float
    se: float
    within_sigma: float
    n: int


def interval_coverage(table: LabelledPredictions, name: str) -> Coverage | None:
    """Coverage of the intervals, crystals whose value symmetry decides left out; None without
    any."""
    target, sigma, (low, high) = table.target[name], table.sigma_of(name), table.interval_of(name)
    known = np.isfinite(target) & np.isfinite(low) & np.isfinite(high) & (sigma > 0)
    n = int(known.sum())
    if not n:
        return None
    margin = ROUNDING * (1 + np.abs(target))
    inside = (low - margin <= target) & (target <= high + margin)
    within = np.abs(table.error(name)) <= sigma + margin
    se = math.sqrt(DEFAULT_COVERAGE * (1 - DEFAULT_COVERAGE) / n)
    return Coverage(float(inside[known].mean()), se, float(within[known].mean()), n)


@dataclass(frozen=True)
class Calibration:
    """Errors against sigma.

    observed: fraction of errors inside the central interval of a normal distribution with this
    sigma, for each of LEVELS. sigma and rmse: root mean square of both, in bins of equal numbers
    of crystals. correlation: Spearman's, of sigma with the absolute error. n: crystals with both.
    """

    observed: Array
    sigma: Array
    rmse: Array
    correlation: float | None
    n: int


def calibration(table: LabelledPredictions, name: str) -> Calibration | None:
    """None with too few crystals that have both."""
    errors, sigmas = table.error(name), table.sigma_of(name)
    both = np.isfinite(errors) & np.isfinite(sigmas) & (sigmas > 0)
    errors, sigmas = np.abs(errors[both]), sigmas[both]
    if len(errors) < MIN_PER_BIN:
        return None
    # Imported here: it takes a while.
    from scipy.special import erf
    from scipy.stats import spearmanr

    probability = erf(errors / sigmas / math.sqrt(2))
    observed = np.array([(probability <= level).mean() for level in LEVELS])
    order = np.argsort(sigmas, kind="stable")
    bins = np.array_split(order, min(MAX_BINS, len(order) // MIN_PER_BIN))
    varies = np.ptp(errors) > 0 and np.ptp(sigmas) > 0
    return Calibration(
        observed,
        np.array([np.sqrt(np.square(sigmas[rows]).mean()) for rows in bins]),
        np.array([np.sqrt(np.square(errors[rows]).mean()) for rows in bins]),
        float(spearmanr(sigmas, errors).statistic) if varies else None,
        len(errors),
    )
