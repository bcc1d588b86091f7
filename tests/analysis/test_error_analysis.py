"""Parts of the test error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from phase2hpc.analysis.error_analysis import (
    LEVELS,
    by_element,
    by_size,
    calibration,
    elements_of,
    interval_coverage,
    worst,
)
from phase2hpc.inference.labelled_predictions import LabelledPredictions

NAN = float("nan")


@pytest.fixture
def table() -> LabelledPredictions:
    return LabelledPredictions(
        ["a", "b", "c", "d"],
        ["NaCl", "Na", "CoO", ""],
        np.array([2, 1, 8, 70]),
        {"gap": np.array([1.0, 2.0, 3.0, NAN])},
        {"gap": np.array([1.5, 1.0, 6.0, 4.0])},
    )


def test_by_element(table: LabelledPredictions) -> None:
    found = by_element(table, "gap")
    assert list(found) == ["O", "Na", "Cl", "Co"]
    assert (found["Na"].mae, found["Na"].n) == (0.75, 2)
    assert found["Na"].se == pytest.approx(0.25)
    assert (found["Co"].mae, found["Co"].se) == (3.0, None)


def test_elements_of_a_formula() -> None:
    assert elements_of("Ca3(PO4)2") == {"Ca", "P", "O"}
    assert elements_of("Xx2Fe") == {"Fe"} and elements_of("") == set()


def test_by_size(table: LabelledPredictions) -> None:
    found = by_size(table, "gap")
    assert {key: (m.mae, m.n) for key, m in found.items()} == {"1-2": (0.75, 2), "5-8": (3.0, 1)}


def test_worst(table: LabelledPredictions) -> None:
    first, second = worst(table, "gap", 2)
    assert (first.id, first.formula, first.error, first.sigma) == ("c", "CoO", 3.0, None)
    assert second.id == "b" and second.error == -1.0
    assert len(worst(table, "gap", 10)) == 3


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_calibration(factor: float) -> None:
    """Errors drawn from sigma: on the diagonals; with half of sigma as prediction, off them."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.1, 1.0, size=20_000)
    zeros = np.zeros_like(sigma)
    table = LabelledPredictions(
        list(map(str, range(len(sigma)))), [""] * len(sigma), np.ones(len(sigma), dtype=np.int64),
        {"x": zeros}, {"x": rng.normal(scale=sigma)}, {"x": factor * sigma},
    )  # fmt: skip
    found = calibration(table, "x")
    assert found is not None and found.n == 20_000
    np.testing.assert_allclose(found.rmse, found.sigma / factor, rtol=0.06)
    assert found.correlation is not None and 0.3 < found.correlation < 0.7
    error = found.observed - LEVELS
    if factor == 1.0:
        assert np.abs(error).max() < 0.015
    else:
        # An interval of one sigma, for 0.683, has half of its width: 0.383.
        assert np.interp(0.683, LEVELS, found.observed) == pytest.approx(0.383, abs=0.02)


def test_no_calibration_without_sigma(table: LabelledPredictions) -> None:
    assert calibration(table, "gap") is None


def test_coverage_of_the_intervals(table: LabelledPredictions) -> None:
    """Inside, below, above; without a label; and zero by symmetry, which is left out."""
    assert interval_coverage(table, "gap") is None
    five = LabelledPredictions(
        list("abcde"), [""] * 5, np.ones(5, dtype=np.int64),
        {"gap": np.array([1.0, 2.0, 3.0, NAN, 0.0])}, {"gap": np.array([1.5, 1.0, 6.0, 4.0, 0.0])},
        {"gap": np.array([0.5, 0.5, 4.0, 1.0, 0.0])}, {"gap": np.array([1.0, 0.5, 4.0, 3.0, 0.0])},
        {"gap": np.array([2.0, 1.5, 8.0, 5.0, 0.0])},
    )  # fmt: skip
    found = interval_coverage(five, "gap")
    assert found is not None and found.n == 3
    assert (found.share, found.within_sigma) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found.se == pytest.approx(np.sqrt(0.9 * 0.1 / 3))
