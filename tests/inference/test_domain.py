"""What is outside of the domain, and that a supercell is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from phase2hpc.data.crystal import Crystal
from phase2hpc.data.elements import atomic_number
from phase2hpc.data.graph import GraphSettings, build_graph
from phase2hpc.data.symmetry import primitive_size
from phase2hpc.inference.domain import FAR_LARGER, Domain

SETTINGS = GraphSettings()


def salt(cells: int, *, vacancy: bool = False) -> Crystal:
    """Rock salt, ``cells`` conventional cells along each edge, a = 5.6 angstrom."""
    n = 2 * cells
    grid = np.array([(i, j, k) for i in range(n) for j in range(n) for k in range(n)])
    kinds = [("Na", "Cl")[int(site.sum()) % 2] for site in grid]
    numbers = np.array([atomic_number(kind) for kind in kinds], dtype=np.uint8)
    first = int(vacancy)
    return Crystal("salt", 5.6 * cells * np.eye(3), numbers[first:], grid[first:] / n)


def outside(crystal: Crystal, domain: Domain, remoteness: float = 0.5) -> str:
    return domain.outside(
        crystal, build_graph(crystal.lattice, crystal.frac_coords, SETTINGS), remoteness
    )


KNOWN = Domain({11, 17}, SETTINGS.cutoff, 20)


def test_inside() -> None:
    assert outside(salt(1), KNOWN) == ""
    # Nothing is known about distances and sizes of an older model.
    assert outside(salt(3), Domain({11, 17}, SETTINGS.cutoff, None), math.nan) == ""


def test_each_reason_is_given() -> None:
    assert outside(salt(1), Domain({11}, SETTINGS.cutoff, 20)) == "never occurred in training: Cl"
    assert "unlike the training crystals: 1.5 times" in outside(salt(1), KNOWN, 1.5)
    assert outside(salt(1), KNOWN, math.inf).startswith("likeness unknown: fewer than two")
    lonely = Crystal("lonely", 9.0 * np.eye(3), np.array([11], dtype=np.uint8), np.zeros((1, 3)))
    assert "no neighbour: atom 1 (Na)" in outside(lonely, KNOWN)
    both = outside(salt(1), Domain({11}, SETTINGS.cutoff, 20), 2.0)
    assert both.count(";") == 1 and "Cl" in both and "2 times" in both


def test_a_supercell_is_its_crystal_and_a_defect_is_not() -> None:
    large, defect = salt(2), salt(2, vacancy=True)
    assert len(large.numbers) > FAR_LARGER * 20
    assert outside(large, KNOWN) == ""
    assert outside(defect, KNOWN) == "large cell: 63 atoms, in training at most 20"


@pytest.mark.parametrize(
    ("crystal", "size"), [(salt(1), 2), (salt(2), 2), (salt(1, vacancy=True), 7)]
)
def test_primitive_size(crystal, size) -> None:
    assert primitive_size(crystal.lattice, crystal.frac_coords, crystal.numbers) == size
