"""Formulas: the key of the split by formula, and pymatgen's notation for tables."""

import numpy as np
import pytest
from paths import SAMPLE
from pymatgen.core import Composition, Element

from phase2hpc.data.composition import composition_key, reduced_formula
from phase2hpc.data.elements import (
    ELECTRONEGATIVITY,
    MAX_ATOMIC_NUMBER,
    SYMBOLS,
    atomic_number,
)
from phase2hpc.data.readers.registry import read


@pytest.mark.parametrize(
    ("numbers", "key", "formula"),
    [
        ([13] * 4 + [8] * 6, "Al2O3", "Al2O3"),
        ([17, 11] * 4, "Cl1Na1", "NaCl"),
        ([14] * 8, "Si1", "Si"),
        ([8] * 4, "O1", "O2"),
        ([8, 1, 1], "H2O1", "H2O"),
        ([3, 8] * 2, "Li1O1", "Li2O2"),
        ([20] * 3 + [15] * 2 + [8] * 8, "Ca3O8P2", "Ca3(PO4)2"),
    ],
)
def test_key_and_formula(numbers, key, formula):
    assert composition_key(numbers) == key
    assert reduced_formula(numbers) == formula


def test_formulas_of_the_sample_are_those_of_pymatgen():
    for raw, _ in zip(read(SAMPLE), range(500), strict=False):
        numbers = [atomic_number(species) for species in raw.species]
        whole = Composition("".join(SYMBOLS[z] for z in numbers))
        assert reduced_formula(numbers) == whole.reduced_formula


def test_formulas_of_any_elements_are_those_of_pymatgen():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        chosen = rng.choice(np.arange(1, 104), size=rng.integers(1, 6), replace=False)
        counts = rng.choice([1, 2, 3, 4, 6, 8, 12], size=len(chosen))
        numbers = np.repeat(chosen, counts)
        whole = Composition({SYMBOLS[z]: int(n) for z, n in zip(chosen, counts, strict=True)})
        assert reduced_formula(numbers.astype(np.uint8)) == whole.reduced_formula


def test_electronegativities_are_those_of_pymatgen():
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        ours, theirs = ELECTRONEGATIVITY[number], Element.from_Z(number).X
        assert ours == theirs or (np.isnan(ours) and np.isnan(theirs))
