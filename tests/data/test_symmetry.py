"""Symmetry that forbids piezoelectricity, on known structures and on the sample's labels."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import spglib
from crystals import spacegroup
from paths import SAMPLE
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import sg_symbol_from_int_number

from phase2hpc.data.elements import ATOMIC_NUMBERS
from phase2hpc.data.symmetry import is_centrosymmetric, is_piezoelectric

CENTROSYMMETRIC = ["-1", "2/m", "mmm", "4/m", "4/mmm", "-3", "-3m", "6/m", "6/mmm", "m-3", "m-3m"]


def piezoelectric(structure: Structure) -> bool:
    numbers = np.array([site.specie.Z for site in structure])
    return is_piezoelectric(structure.lattice.matrix, structure.frac_coords, numbers)


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (spacegroup("Fd-3m", Lattice.cubic(3.567), ("C", [0.125] * 3)), False),
        (spacegroup("F-43m", Lattice.cubic(5.65), ("Ga", [0] * 3), ("As", [0.25] * 3)), True),
        (spacegroup("Pm-3m", Lattice.cubic(4.0), ("Ba", [0] * 3), ("Ti", [0.5] * 3),
                    ("O", [0.5, 0.5, 0])), False),
        (spacegroup("P4mm", Lattice.tetragonal(3.99, 4.03), ("Ba", [0] * 3),
                    ("Ti", [0.5, 0.5, 0.52]), ("O", [0.5, 0.5, -0.03]),
                    ("O", [0.5, 0, 0.48])), True),
        # 432: chiral, no inversion, and no piezoelectric tensor either.
        (spacegroup("P4_132", Lattice.cubic(6.3), ("Mn", [0.0636] * 3),
                    ("Al", [0.125, 0.202, 0.452])), False),
        # 422: no inversion; the tensor has one independent component.
        (spacegroup("P4_12_12", Lattice.tetragonal(4.97, 6.92), ("Si", [0.3, 0.3, 0]),
                    ("O", [0.239, 0.104, 0.179])), True),
        (spacegroup("P6_3mc", Lattice.hexagonal(3.25, 5.2), ("Zn", [1 / 3, 2 / 3, 0]),
                    ("O", [1 / 3, 2 / 3, 0.382])), True),
    ],
    ids=["diamond", "zinc blende", "cubic perovskite", "BaTiO3", "432", "cristobalite", "wurtzite"],
)  # fmt: skip
def test_known_structures(structure: Structure, expected: bool) -> None:
    assert piezoelectric(structure) is expected
    primitive = structure.get_primitive_structure()
    assert piezoelectric(primitive) is expected
    moved = primitive * (2, 1, 1)
    moved.translate_sites(range(len(moved)), [0.123, 0.456, 0.789])
    assert piezoelectric(moved) is expected


@pytest.mark.parametrize("coords", [(0.11, 0.23, 0.37), (0.125, 0.125, 0.125), (0.2, 0.2, 0.2)])
@pytest.mark.parametrize("number", range(207, 215))
def test_432_in_any_cell(number: int, coords: tuple[float, float, float]) -> None:
    """All space groups of 432, with atoms on general and special positions: whether they are
    recognised does not depend on the cell."""
    group = sg_symbol_from_int_number(number)
    structure = spacegroup(group, Lattice.cubic(9.0), ("Si", list(coords)))
    primitive = structure.get_primitive_structure()
    skewed = primitive.copy()
    skewed.make_supercell([[1, 1, 0], [0, 1, 2], [0, 0, 1]])
    double = primitive.copy()
    double.make_supercell([[1, 1, 0], [1, -1, 0], [0, 1, 1]])
    for cell in (structure, primitive, skewed, double):
        assert not piezoelectric(cell)


def test_an_atom_out_of_place_breaks_the_inversion() -> None:
    rocksalt = spacegroup("Fm-3m", Lattice.cubic(5.6), ("Na", [0] * 3), ("Cl", [0.5] * 3))
    rocksalt.translate_sites([0], [0.0, 0.0, 0.005 / 5.6], frac_coords=True)
    assert not piezoelectric(rocksalt)  # rounding of a file
    rocksalt.translate_sites([0], [0.0, 0.0, 0.1 / 5.6], frac_coords=True)
    assert piezoelectric(rocksalt)


def test_it_agrees_with_spglib_and_with_the_labels_of_the_sample() -> None:
    """Every crystal of the sample with a piezoelectric label: where symmetry says zero, the
    label is zero, and nowhere else."""
    checked = 0
    with gzip.open(SAMPLE, "rt") as lines:
        for record in map(json.loads, lines):
            label = record["properties"].get("dfpt_piezo_max_dij")
            if label is None:
                continue
            checked += 1
            cell = (
                np.array(record["lattice"]),
                np.array(record["frac_coords"]),
                np.array([ATOMIC_NUMBERS[symbol] for symbol in record["species"]]),
            )
            found = spglib.get_symmetry_dataset(cell, symprec=0.01).pointgroup.strip()
            assert is_centrosymmetric(*cell) is (found in CENTROSYMMETRIC), record["id"]
            assert is_piezoelectric(*cell) is (label > 0.01), record["id"]
    assert checked == 587
