"""The table of element descriptors: values of known elements, scale, missing values."""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np
import pytest

from phase2hpc.data.element_descriptors import element_descriptors
from phase2hpc.data.elements import MAX_ATOMIC_NUMBER, SYMBOLS


def rows() -> list[dict[str, str]]:
    text = files("phase2hpc.data").joinpath("element_descriptors.csv").read_text("utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@pytest.mark.parametrize(
    ("symbol", "name", "value"),
    [
        ("Fe", "electronegativity", 1.83),
        ("Fe", "melting_point", 1811.0),
        ("O", "first_ionization_energy", 13.618),
        ("Cl", "electron_affinity", 3.613),
        ("Ba", "min_oxidation_state", 2.0),
        ("S", "min_oxidation_state", -2.0),
        ("U", "block", 3.0),
    ],
)
def test_values_are_those_of_the_literature(symbol: str, name: str, value: float) -> None:
    (row,) = (row for row in rows() if row["symbol"] == symbol)
    assert float(row[name]) == pytest.approx(value, rel=1e-3)


def test_every_element_has_its_row() -> None:
    assert [row["symbol"] for row in rows()] == list(SYMBOLS[1:])
    assert [int(row["atomic_number"]) for row in rows()] == list(range(1, MAX_ATOMIC_NUMBER + 1))


def test_standardised_and_missing_is_the_mean() -> None:
    table = element_descriptors()
    names = list(rows()[0])[2:]
    assert table.shape == (MAX_ATOMIC_NUMBER + 1, len(names)) and table.dtype == np.float32
    assert np.isfinite(table).all()
    assert (table[0] == 0).all()
    complete = table[1:95, names.index("period")]
    assert complete.mean() == pytest.approx(0, abs=1e-6)
    assert complete.std() == pytest.approx(1, abs=1e-6)
    helium = SYMBOLS.index("He")
    assert rows()[helium - 1]["electronegativity"] == ""
    assert table[helium, names.index("electronegativity")] == 0
