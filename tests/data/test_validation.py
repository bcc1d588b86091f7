"""Validation: every no has a kind and a reason; notation is all that changes."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import SAMPLE

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.elements import ATOMIC_NUMBERS, COVALENT_RADII, SYMBOLS, atomic_number
from phase2hpc.data.readers.registry import read
from phase2hpc.data.validation import Limits, Rejected, reason_kind, validate

CUBE = (5.64 * np.eye(3)).tolist()
SALT = ["Na", "Cl"]
SITES = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
NAN, INF = float("nan"), float("inf")


def raw(**changes) -> RawCrystal:
    fields = {"lattice": CUBE, "species": SALT, "frac_coords": SITES}
    return RawCrystal(id="a", input="a.cif", **(fields | changes))


BAD = {
    "lattice of two vectors": ({"lattice": CUBE[:2]}, "bad cell", "(2, 3)"),
    "lattice of words": ({"lattice": "cubic"}, "bad cell", "rows of three numbers"),
    "ragged lattice": ({"lattice": [[1, 2], [3], [4, 5, 6]]}, "bad cell", "rows of three"),
    "no lattice": ({"lattice": None}, "bad cell", "not finite"),
    "nan lattice": ({"lattice": [[NAN, 0, 0], [0, 5, 0], [0, 0, 5]]}, "bad cell", "not finite"),
    "zero lattice": ({"lattice": np.zeros((3, 3))}, "bad cell", "no volume"),
    "flat lattice": ({"lattice": [[5, 0, 0], [0, 5, 0], [5, 5, 0]]}, "bad cell", "no volume"),
    "endless lattice": ({"lattice": np.eye(3) * 1e200}, "bad cell", "too long"),
    "skewed lattice": (
        {"lattice": [[5, 0, 0], [5000, 5, 0], [0, 0, 5]]}, "bad cell", "reduced (Niggli) cell",
    ),
    "dense": ({"lattice": np.eye(3)}, "volume", "too dense"),
    "empty space": ({"lattice": np.eye(3) * 30}, "volume", "no crystal"),
    "no atoms": ({"species": [], "frac_coords": []}, "no atoms", "empty"),
    "unknown element": ({"species": ["Na", "Wat"]}, "unknown element", "'Wat'"),
    "element beyond the table": ({"species": ["Na", "Og"]}, "unknown element", "'Og'"),
    "blank element": ({"species": ["Na", ""]}, "unknown element", "''"),
    "half a site": ({"occupancies": [1.0, 0.5]}, "disordered", "site 2 (Cl) has occupancy 0.5"),
    "too full a site": ({"occupancies": [1.2, 1.0]}, "disordered", "1.2"),
    "nan occupancy": ({"occupancies": [1.0, NAN]}, "disordered", "nan"),
    "occupancies missing": ({"occupancies": [1.0]}, "disordered", "1 occupancies for 2"),
    "coordinates missing": ({"frac_coords": SITES[:1]}, "bad coordinates", "(1, 3)"),
    "flat coordinates": ({"frac_coords": [[0, 0], [0.5, 0.5]]}, "bad coordinates", "(2, 2)"),
    "nan coordinates": ({"frac_coords": [[0, 0, NAN], SITES[1]]}, "bad coordinates", "not finite"),
    "infinite coordinates": ({"frac_coords": [[0, 0, INF], SITES[1]]}, "bad coordinates", "not"),
    "words": ({"frac_coords": [["a", 0, 0], SITES[1]]}, "bad coordinates", "rows of three"),
    "far coordinates": ({"frac_coords": [[0, 0, 1e9], SITES[1]]}, "bad coordinates", "1e+09"),
    "same place": ({"frac_coords": [SITES[0], [1.0, 0.0, -1.0]]}, "too close", "same site twice"),
    "close": ({"frac_coords": [SITES[0], [0.2, 0, 0]]}, "too close", "1.128 A"),
    "close across the border": (
        {"frac_coords": [[0.05, 0, 0], [0.9, 0, 0]]}, "too close", "atoms 1 (Na) and 2 (Cl)",
    ),
    "close to its own image": (
        {"lattice": [[1.2, 0, 0], [0, 9, 0], [0, 0, 9]]}, "too close", "images of Na 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_crystals_have_one_clear_reason(name):
    changes, kind, expected = BAD[name]
    with pytest.raises(Rejected) as caught:
        validate(raw(**changes))
    assert caught.value.kind == kind == reason_kind(str(caught.value))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_limits_can_be_set():
    with pytest.raises(Rejected, match="2 in the cell, at most 1 are taken"):
        validate(raw(), Limits(max_atoms=1))
    validate(raw(lattice=np.eye(3) * 30), Limits(max_volume=1e5))


@pytest.mark.parametrize(
    ("species", "lattice", "length"),
    [("H", 4.0, 0.741), ("N", 4.5, 1.098), ("O", 4.5, 1.21), ("C", 4.5, 1.2), ("F", 4.5, 1.41)],
)
def test_short_real_bonds_pass(species, lattice, length):
    sites = [[0, 0, 0], [length / lattice, 0, 0]]
    validate(raw(lattice=np.eye(3) * lattice, species=[species] * 2, frac_coords=sites))


def test_only_notation_changes():
    crystal = validate(
        raw(
            species=["Fe3+", "D"],
            frac_coords=[[-1e-17, 1.25, -0.25], [1.0, 0.5, 7.5]],
            labels={"band_gap": 1.0},
            split="val",
            occupancies=[1.0, 0.9995],
        )
    )
    assert crystal.numbers.tolist() == [26, 1] and crystal.numbers.dtype == np.uint8
    assert crystal.frac_coords.tolist() == [[0, 0.25, 0.75], [0, 0.5, 0.5]]
    assert (crystal.id, crystal.split, crystal.labels) == ("a", "val", {"band_gap": 1.0})
    assert crystal.lattice.tolist() == CUBE


def test_left_handed_lattice_is_kept():
    crystal = validate(raw(lattice=(-5.64 * np.eye(3))))
    assert np.linalg.det(crystal.lattice) < 0


def test_the_callers_arrays_are_not_touched():
    frac = np.array([[-0.25, 0.0, 0.0], [0.5, 0.5, 0.5]])
    validate(raw(frac_coords=frac))
    assert frac[0, 0] == -0.25


@given(st.lists(st.lists(st.floats(-9999, 9999), min_size=3, max_size=3), min_size=1, max_size=1))
def test_wrapped_coordinates_lie_in_the_cell(coords):
    frac = validate(raw(species=["Na"], frac_coords=coords)).frac_coords
    assert ((frac >= 0) & (frac < 1)).all()


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(json_like, json_like)
def test_nothing_but_rejected_is_raised(lattice, coords):
    with pytest.raises(Rejected) as caught:
        validate(raw(lattice=lattice))
        validate(raw(frac_coords=coords))
    assert caught.value.kind


@pytest.mark.parametrize(
    ("text", "number"),
    [("Fe", 26), ("Fe3+", 26), ("Fe+3", 26), ("O2-", 8), ("Cl-", 17), ("Fe2.5+", 26), ("Fe1", 26),
     ("Fe2+,spin=5", 26), ("D", 1), ("T", 1), ("CL", 17), ("Lr", 103), ("X", None), ("Wat", None),
     ("Q", None), ("Fe0.5Ni0.5", None), ("OH", None), ("Rf", None), ("3", None), ("", None)],
)  # fmt: skip
def test_atomic_number(text, number):
    assert atomic_number(text) == number


def test_table_of_elements_agrees_with_ase():
    data = pytest.importorskip("ase.data")
    assert list(SYMBOLS[1:]) == data.chemical_symbols[1:104]
    assert np.allclose(COVALENT_RADII[1:97], data.covalent_radii[1:97])
    assert len(COVALENT_RADII) == len(SYMBOLS) == 104 and ATOMIC_NUMBERS["Si"] == 14


def test_the_sample_is_accepted():
    """All but one silicon atom in an empty box, with labels, splits and elements as written."""
    rejected, kept, labels = Counter(), 0, Counter()
    for item in read(SAMPLE):
        assert isinstance(item, RawCrystal)
        try:
            crystal = validate(item)
        except Rejected as error:
            rejected[(item.id, error.kind)] += 1
            continue
        kept += 1
        labels.update(crystal.labels.keys())
    assert rejected == {("JVASP-7577", "volume"): 1} and kept == 15_669
    with gzip.open(SAMPLE, "rt") as handle:
        records = [json.loads(line) for line in handle]
    assert labels["bulk_modulus"] == sum("bulk_modulus_kv" in r["properties"] for r in records)
    assert labels["ehull_leaderboard"] > 15_000
