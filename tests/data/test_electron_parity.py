"""Parity of the electrons of known crystals, in every description of them."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from crystals import arrays_of, spacegroup
from paths import SAMPLE
from pymatgen.core import Lattice, Structure

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.electron_parity import (
    EVEN,
    ODD_CELL,
    ODD_FORMULA,
    parity_by_cell,
    parity_by_composition,
)
from phase2hpc.data.elements import ATOMIC_NUMBERS
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.loader import collate


def parity(structure: Structure) -> int:
    numbers = np.array([site.specie.Z for site in structure])
    found = int(parity_by_composition(np.array([0, len(numbers)]), numbers)[0])
    if found < 0:
        found = parity_by_cell(structure.lattice.matrix, structure.frac_coords, numbers)
    return found


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (spacegroup("Fm-3m", Lattice.cubic(4.05), ("Al", [0] * 3)), ODD_CELL),
        (spacegroup("Im-3m", Lattice.cubic(4.29), ("Na", [0] * 3)), ODD_CELL),
        (spacegroup("Fm-3m", Lattice.cubic(5.64), ("Na", [0] * 3), ("Cl", [0.5] * 3)), EVEN),
        (spacegroup("Fd-3m", Lattice.cubic(5.43), ("Si", [0.125] * 3)), EVEN),
        # Molecules of two: odd atoms, an even cell.
        (spacegroup("Cmce", Lattice.orthorhombic(7.27, 4.79, 9.79), ("I", [0, 0.154, 0.117])),
         ODD_FORMULA),
        (spacegroup("Pm-3m", Lattice.cubic(4.0), ("La", [0] * 3), ("Ti", [0.5] * 3),
                 ("O", [0.5, 0.5, 0])), ODD_CELL),
        (spacegroup("Pm-3m", Lattice.cubic(4.0), ("Ba", [0] * 3), ("Ti", [0.5] * 3),
                 ("O", [0.5, 0.5, 0])), EVEN),
    ],
    ids=["Al", "Na", "NaCl", "Si", "I2", "LaTiO3", "BaTiO3"],
)  # fmt: skip
def test_known_crystals_in_every_cell(structure: Structure, expected: int) -> None:
    primitive = structure.get_primitive_structure()
    for same in (structure, primitive, primitive * (2, 1, 1), primitive * (3, 1, 2),
                 primitive * (5, 4, 4)):  # fmt: skip
        moved = same.copy()
        moved.translate_sites(range(len(moved)), [0.123, 0.456, 0.789])
        moved.perturb(1e-4)
        assert parity(moved) == expected


def test_dimers_pair_the_electrons() -> None:
    """A chain of sodium atoms is a metal; with every second bond shorter it may be none."""
    for shift, expected in ((0.5, ODD_CELL), (0.45, ODD_FORMULA)):
        chain = Structure(Lattice.orthorhombic(6.0, 9.0, 9.0), ["Na", "Na"],
                          [[0, 0, 0], [shift, 0, 0]])  # fmt: skip
        assert parity(chain) == expected


def test_graphs_know_it_whole_in_blocks_and_in_batches() -> None:
    """Asked for one by one or together, in any order, and again."""
    cell = np.diag([6.0, 9.0, 9.0])
    crystals = [
        RawCrystal(f"{second}", "here", cell, ["Na", second], np.array([[0.0] * 3, [x, 0.0, 0.0]]))
        for second, x in (("Na", 0.5), ("Cl", 0.4), ("Na", 0.45), ("F", 0.5), ("O", 0.5))
    ]
    expected = [ODD_CELL, EVEN, ODD_FORMULA, EVEN, ODD_CELL]
    arrays = arrays_of(crystals, GraphSettings(), float64=True)
    assert arrays.electron_parity(np.array([2])).tolist() == [ODD_FORMULA]
    order = np.array([4, 2, 0, 1, 2, 3])
    for _ in range(2):
        assert arrays.electron_parity(order).tolist() == [expected[i] for i in order]
    assert arrays.block(1, 4).electron_parity(np.arange(3)).tolist() == expected[1:4]
    assert collate(arrays, order).electron_parity.tolist() == [expected[i] for i in order]


def test_many_crystals_at_once_and_none() -> None:
    """Graphs without atoms keep their place."""
    node_ptr = np.array([0, 0, 1, 3, 3])
    found = parity_by_composition(node_ptr, np.array([13, 11, 17]))
    assert found.tolist() == [EVEN, ODD_CELL, EVEN, EVEN]
    assert parity_by_composition(np.array([0]), np.array([], dtype=np.uint8)).tolist() == []


def test_odd_crystals_of_s_and_p_elements_are_metals() -> None:
    """By the sample's own labels: what the parity is for."""
    blocks_of_d_and_f = {*range(21, 30), *range(39, 48), *range(57, 80), *range(89, 119)}
    gaps: dict[int, list[float]] = {EVEN: [], ODD_FORMULA: [], ODD_CELL: []}
    with gzip.open(SAMPLE, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            gap = record["properties"].get("optb88vdw_bandgap")
            numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in record["species"]])
            if gap is None or record["split"] == "test" or blocks_of_d_and_f & {*numbers.tolist()}:
                continue
            pointer = np.array([0, len(numbers)])
            found = int(parity_by_composition(pointer, numbers)[0])
            if found < 0:
                coords = np.array(record["frac_coords"])
                found = parity_by_cell(np.array(record["lattice"]), coords, numbers)
            gaps[found].append(gap)
    share = {key: np.mean(np.array(values) > 0.05) for key, values in gaps.items()}
    assert share[ODD_CELL] < 0.03 and share[EVEN] > 0.7
