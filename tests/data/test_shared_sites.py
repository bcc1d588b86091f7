"""Entries of one element that share a site are one atom; other partial sites are disorder."""

import numpy as np
import pytest

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.shared_sites import with_whole_sites
from phase2hpc.data.validation import Rejected, validate

CUBE = 5.64 * np.eye(3)
SITE, OTHER = [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]


def raw(species, coords, occupancies) -> RawCrystal:
    return RawCrystal("a", "a.cif", CUBE, species, coords, occupancies)


@pytest.mark.parametrize(
    ("species", "coords", "occupancies", "numbers"),
    [
        (["Fe2+", "Fe3+", "O2-"], [SITE, SITE, OTHER], [0.5, 0.5, 1.0], [26, 8]),
        (["O2-", "Fe2+", "Fe3+"], [OTHER, SITE, SITE], [1.0, 0.3333, 0.6666], [8, 26]),
        (["Fe", "Fe", "Fe"], [SITE, OTHER, SITE], [0.2, 1.0, 0.8], [26, 26]),
        (["H", "D", "O"], [SITE, SITE, OTHER], [0.5, 0.5, 1.0], [1, 8]),
        (["Fe", "Fe", "Fe", "O"], [SITE, SITE, SITE, OTHER], [0.3, 0.3, 0.4, 1.0], [26, 8]),
        # An image, and nearer than 0.01 A to the border of the cell.
        (["Na+", "Na", "Cl"], [SITE, [0.9999, 1, -2], OTHER], [0.5, 0.5, 1.0], [11, 17]),
        (["K", "Rb", "K", "Rb"], [SITE, OTHER, SITE, OTHER], [0.4, 0.7, 0.6, 0.3], [19, 37]),
    ],
)
def test_one_atom(species, coords, occupancies, numbers) -> None:
    crystal = validate(raw(species, coords, occupancies))
    assert crystal.numbers.tolist() == numbers
    assert sorted(map(tuple, np.asarray(crystal.frac_coords))) == [tuple(SITE), tuple(OTHER)]


@pytest.mark.parametrize(
    ("species", "coords", "occupancies"),
    [
        (["Fe", "Mn", "O"], [SITE, SITE, OTHER], [0.5, 0.5, 1.0]),
        (["Fe2+", "Fe3+", "Mn"], [SITE, SITE, SITE], [0.5, 0.5, 0.5]),
        (["Fe2+", "Fe3+", "O"], [SITE, SITE, OTHER], [0.5, 0.4, 1.0]),
        (["Fe2+", "Fe3+", "O"], [SITE, SITE, OTHER], [0.5, 0.6, 1.0]),
        (["Fe2+", "Fe3+", "O"], [SITE, SITE, OTHER], [1.5, -0.5, 1.0]),
        (["Fe2+", "Fe3+", "O"], [SITE, [0.002, 0, 0], OTHER], [0.5, 0.5, 1.0]),
        (["Fe2+", "Fe3+", "O"], [SITE, OTHER, OTHER], [0.5, 0.5, 1.0]),
    ],
)
def test_disorder(species, coords, occupancies) -> None:
    crystal = raw(species, coords, occupancies)
    assert with_whole_sites(crystal) is crystal
    with pytest.raises(Rejected, match="disordered"):
        validate(crystal)


def test_an_atom_beside_such_a_site_is_too_close() -> None:
    crystal = raw(["Fe2+", "Fe3+", "Mn"], [SITE, SITE, SITE], [0.5, 0.5, 1.0])
    with pytest.raises(Rejected, match="too close"):
        validate(crystal)


def test_limits_are_of_the_atoms() -> None:
    lattice = np.diag([2.0, 2.0, 0.4])
    crystal = RawCrystal("a", "a", lattice, ["Fe"] * 2, [SITE, SITE], [0.5, 0.5])
    with pytest.raises(Rejected, match=r"too close: images of Fe 1 are 0\.400 A"):
        validate(crystal)
