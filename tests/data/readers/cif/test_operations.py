"""Images of special positions: the first of those that coincide."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from phase2hpc.data.readers.cif import operations
from phase2hpc.data.readers.cif.operations import arrays_of, expand

# On special positions of many groups, and at the ends of the steps that positions are compared by.
END_OF_STEP = (12345 - operations.PLACE_OFFSET) / operations.PLACES
SITES = np.array(
    [[0, 0, 0], [0.5, 0.5, 0.5], [1 / 3, 2 / 3, 0.25], [0.125] * 3, [0.21, 0.21, 0.21],
     [END_OF_STEP, 0, 0], [END_OF_STEP] * 3, [0.1, 0.2, 0.3]]
)  # fmt: skip


@pytest.mark.parametrize("number", [2, 47, 62, 139, 166, 194, 205, 221, 225, 227, 229, 230])
@pytest.mark.parametrize("noise", [0.0, 1e-14])
def test_each_position_once(number: int, noise: float) -> None:
    group = gemmi.find_spacegroup_by_number(number).operations()
    rotations, translations = arrays_of(group)
    sites = SITES + noise * np.random.default_rng(number).standard_normal(SITES.shape)
    gamma = 120.0 if 143 <= number <= 194 else 90.0
    lattice = np.array(gemmi.UnitCell(20.0, 20.0, 20.0, 90.0, 90.0, gamma).orth.mat).T
    positions, site = expand(sites, lattice, rotations, translations)
    for i, frac in enumerate(sites):
        images = rotations @ frac + translations
        apart = images[:, None] - images
        apart -= np.rint(apart)
        stabiliser = (np.abs(apart) < 1e-6).all(axis=2)[0].sum()
        here = positions[site == i]
        assert len(here) == len(images) / stabiliser
        # The first image of each position, in the order of the operations.
        first = [
            j for j in range(len(images)) if not (np.abs(apart[j, :j]) < 1e-6).all(axis=1).any()
        ]
        difference = here - images[first]
        assert np.abs(difference - np.rint(difference)).max() < 1e-9


def test_positions_that_rounding_parts_are_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = operations._first_of_equal
    monkeypatch.setattr(
        operations, "_first_of_equal", lambda images: compared.append(1) or original(images)
    )
    group = gemmi.find_spacegroup_by_number(225).operations()
    site = np.array([[END_OF_STEP, 0.0, 0.0]])
    positions, _ = expand(site, 20.0 * np.eye(3), *arrays_of(group))
    assert len(positions) == 24  # (x, 0, 0) of Fm-3m
    images = np.array([[[END_OF_STEP + 1e-12, 0, 0], [END_OF_STEP - 1e-12, 0, 0]]])
    assert operations._first_images(images, np.array([2])).tolist() == [[True, False]]
    assert compared
