"""Extended XYZ and ASE databases: labels, ids, periodicity, against ase itself."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read as read_by_ase
from ase.io import write

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.readers.registry import read
from phase2hpc.errors import InputError

CASES = Path(__file__).parent / "cases"
SALT = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
FRAME = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 {}\nCu 0 0 0\n'


def frames(path: Path, *comments: str) -> Path:
    path.write_text("".join(FRAME.format(comment) for comment in comments))
    return path


def calculated(**results: object) -> Atoms:
    atoms = SALT.copy()
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["gap"] = 5.0
    return atoms


RESULTS = {
    "energy": -27.0, "free_energy": -27.5, "magmom": 0.25, "dipole": np.ones(3),
    "stress": np.zeros(6), "forces": np.zeros((8, 3)), "magmoms": np.zeros(8),
}  # fmt: skip
LABELS = {"gap": 5.0, "energy": -27.0, "free_energy": -27.5, "magmom": 0.25}


def test_numbers_that_ase_moves_to_its_calculator_are_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.extxyz", [calculated(**RESULTS)] * 2)
    with connect(tmp_path / "a.db") as database:
        database.write(calculated(**RESULTS), gap=5.0)
    with caplog.at_level(logging.WARNING):
        items = list(read(tmp_path / "a.extxyz"))
    assert [dict(item.labels) for item in items] == [LABELS] * 2
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "a.extxyz: 2 of 2 structures: no label is made of dipole, forces, magmoms, stress: more "
        "than one number a structure"
    )
    (item,) = read(tmp_path / "a.db")
    assert dict(item.labels) == LABELS


def test_case_of_a_calculation(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (item,) = read(CASES / "ase_calc.extxyz")
    atoms = read_by_ase(CASES / "ase_calc.extxyz")
    assert dict(item.labels) == {"energy": atoms.get_potential_energy()} == {"energy": -27.0}
    assert "no label is made of forces, stress" in caplog.text


@pytest.mark.parametrize(
    ("comment", "name"),
    [
        ("id=7", "7"), ("id=007", "007"), ('id="12"', "12"), ("material_id=mp-1", "mp-1"),
        ("id=1.50", "1.50"), ("jid=5 gap=1", "5"), ("gap=1", "a#0"), ("id=T", "T"),
    ],
)  # fmt: skip
def test_ids(tmp_path: Path, comment: str, name: str) -> None:
    (item,) = read(frames(tmp_path / "a.extxyz", comment))
    assert item.id == name and not {"id", "jid", "material_id"} & set(item.labels)


def test_case_of_a_duplicate_numeric_id(tmp_path: Path) -> None:
    assert [item.id for item in read(CASES / "x_dup_id.xyz")] == ["7", "7"]
    other = frames(tmp_path / "b.xyz", *(f"id={i}" for i in range(100, 130)))
    summary = prepare_store(
        [CASES / "x_dup_id.xyz", other], tmp_path / "s.h5", split="random", workers=1
    )
    assert summary.rejected == {"duplicate id": 1} and summary.kept == 31


# ---- elements and damaged frames -----------------------------------------------------------------

LITHIUM = (
    '2\nLattice="4.08 0 0 0 4.08 0 0 0 4.1" Properties=species:S:1:pos:R:3\n'
    "Li 0 0 0\nD 2.04 2.04 2.05\n"
)


@pytest.mark.parametrize(
    ("old", "new", "species"),
    [
        ("", "", ["Li", "H"]),
        ("D", "T", ["Li", "H"]),
        ("Li", "li", ["Li", "H"]),
        ("Li", "Fe3+", ["Fe", "H"]),
        ("Li", "11", ["Na", "H"]),
        ("Lattice", "lattice", ["Li", "H"]),
        ("Properties", "properties", ["Li", "H"]),
        ("Lattice", 'comment="a Lattice=1 \'b" Lattice', ["Li", "H"]),
    ],
)
def test_elements_and_keys(tmp_path: Path, old: str, new: str, species: list[str]) -> None:
    (tmp_path / "a.xyz").write_text(LITHIUM.replace(old, new) if old else LITHIUM)
    (item,) = read(tmp_path / "a.xyz")
    assert isinstance(item, RawCrystal), item
    assert item.species == species
    assert np.allclose(item.lattice, np.diag([4.08, 4.08, 4.1]))
    assert np.allclose(item.frac_coords, [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("D 2.04", "D", "bad frame: line 8 has 3 of 4 columns: 'D 2.04 2.05'"),
        ("D 2.04", "D x", "bad frame: line 8, a coordinate is no number: 'D x 2.04 2.05'"),
        ("D 2", "Wat 2", "unknown element: line 8, 'Wat' (elements H to Lr are known)"),
        ("D 2", "118 2", "unknown element: line 8, '118' (elements H to Lr are known)"),
        (
            "4.08 0 0 0 4.08 0 0 0 4.1", "4.08 4.08 4.1",
            "bad frame: line 6, its Lattice is '4.08 4.08 4.1', not nine numbers (write "
            'Lattice="ax ay az bx by bz cx cy cz")',
        ),
        (
            '"4.08 0 0 0 4.08 0 0 0 4.1"', "[[4, 0, 0], [0, 4, 0], [0, 0, 4]]",
            "bad frame: line 6, its Lattice is '[[4, 0, 0], [0, 4, 0], [0, 0, 4]]', not nine "
            'numbers (write Lattice="ax ay az bx by bz cx cy cz")',
        ),
        ("pos:R", "xyz:R", "bad frame: line 6, its Properties have no pos:R:3"),
        ("species:S", "type:S", "bad frame: line 6, its Properties have no species:S:1"),
        (
            "species:S:1", "species:S",
            "bad frame: line 6, its Properties are 'species:S:pos:R:3', not name:type:count of "
            "each column",
        ),
    ],
)  # fmt: skip
def test_a_damaged_frame_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    assert old in LITHIUM
    (tmp_path / "a.xyz").write_text(LITHIUM + LITHIUM.replace(old, new))
    good, bad = read(tmp_path / "a.xyz")
    assert isinstance(good, RawCrystal) and isinstance(bad, UnreadableRecord)
    assert bad.reason == reason and bad.id == "a#1"


# ---- periodicity ---------------------------------------------------------------------------------


def with_vacuum(vacuum: float) -> Atoms:
    slab = fcc111("Cu", (1, 1, 3), vacuum=vacuum / 2)
    slab.pbc = (True, True, False)
    return slab


def test_a_slab_with_vacuum_is_read_as_its_poscar_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slab = with_vacuum(12.0)
    write(tmp_path / "a.extxyz", [slab, SALT])
    write(tmp_path / "POSCAR", slab, format="vasp", direct=True)
    with connect(tmp_path / "a.db") as database:
        database.write(slab)
    with caplog.at_level(logging.WARNING):
        found, crystal = read(tmp_path / "a.extxyz")
        (row,) = read(tmp_path / "a.db")
    (poscar,) = read(tmp_path / "POSCAR")
    for item in (found, row):
        assert list(item.species) == list(poscar.species) == ["Cu"] * 3
        assert np.allclose(item.lattice, poscar.lattice)
        assert np.allclose(item.frac_coords, poscar.frac_coords)
    assert isinstance(crystal, RawCrystal)
    messages = [record.getMessage() for record in caplog.records]
    assert "a.extxyz: 1 of 2 structures: not periodic in every direction: read as" in messages[0]
    assert "a.db: 1 of 1 structures: not periodic in every direction" in messages[1]


def rotated(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    return atoms


def no_third_vector(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.cell[2] = 0
    return atoms


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (with_vacuum(5.9), "5.9 A of vacuum and at least 6"), (with_vacuum(6.1), ""),
        (rotated(with_vacuum(5.9)), "not along c"), (rotated(with_vacuum(6.1)), ""),
        (no_third_vector(with_vacuum(9)), "a direction without a lattice vector"),
        (Atoms("Cu", cell=[9, 9, 3], pbc=(False, False, True)), ""),
        (Atoms("Cu", cell=[9, 4, 3], pbc=(False, False, True)), "not along b, where its cell has"),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 11]], cell=[3, 3, 9], pbc=(True, True, False)), "has 0 A"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[9, 9, 9], pbc=False), "a molecule"),
    ],
)  # fmt: skip
def test_vacuum(tmp_path: Path, atoms: Atoms, expected: str) -> None:
    write(tmp_path / "a.extxyz", atoms)
    with connect(tmp_path / "a.db") as database:
        database.write(atoms)
    for name in ("a.extxyz", "a.db"):
        (item,) = read(tmp_path / name)
        if expected:
            assert isinstance(item, UnreadableRecord) and expected in item.reason
            assert item.reason.startswith("not periodic: ")
        else:
            assert isinstance(item, RawCrystal)


def test_case_of_two_periodic_directions_without_vacuum() -> None:
    """Its images would touch across c: a bulk crystal, and not the slab of the file."""
    (item,) = read(CASES / "ase_2dpbc.extxyz")
    assert isinstance(item, UnreadableRecord)
    assert item.reason.startswith("not periodic: not along c, where its cell has 2.82 A of vacuum")


def test_a_frame_without_a_lattice_says_so(tmp_path: Path) -> None:
    water = molecule("H2O")
    write(tmp_path / "a.xyz", [water], format="xyz")
    water.info["id"] = "w"
    write(tmp_path / "b.extxyz", [water])
    for name, identifier in (("a.xyz", "a#0"), ("b.extxyz", "w")):
        (item,) = read(tmp_path / name)
        assert item.reason == "no cell: the comment line of the frame has no Lattice"
        assert item.id == identifier


def test_an_old_database_without_results_is_read(tmp_path: Path) -> None:
    import sqlite3

    with connect(tmp_path / "a.db") as database:
        database.write(calculated(energy=-1.0), gap=5.0)
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("ALTER TABLE systems DROP COLUMN free_energy")
    (item,) = read(tmp_path / "a.db")
    assert dict(item.labels) == {"gap": 5.0, "energy": -1.0}
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("ALTER TABLE systems DROP COLUMN pbc")
    with pytest.raises(InputError, match="no plain 'pbc'"):
        list(read(tmp_path / "a.db"))
