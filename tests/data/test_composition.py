"""Formulas: the key of the split by formula, and pymatgen's notation for tables."""

import pytest
from paths import SAMPLE
from pymatgen.core import Composition

from phase2hpc.data.composition import composition_key, reduced_formula
from phase2hpc.data.elements import SYMBOLS, atomic_number
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
