"""POSCAR and XDATCAR: the forms that VASP reads, against pymatgen and ase, and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.poscar import structures_in_poscar
from phase2hpc.data.readers.registry import read
from phase2hpc.data.validation import Rejected, validate

CASES = Path(__file__).parent / "cases"
SALT = ["Na"] * 4 + ["Cl"] * 4
HEAD = "salt\n1.0\n5.64 0 0\n0 5.64 0\n0 0 5.64\n"
ROWS = "0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0\n.5 .5 .5\n.5 0 0\n0 .5 0\n0 0 .5\n"
FORM = HEAD + "Na Cl\n4 4\nDirect\n" + ROWS


def crystals(text: str) -> list[RawCrystal]:
    items = structures_in_poscar(text.encode(), "a", "a.vasp")
    assert all(isinstance(item, RawCrystal) for item in items), items
    return items  # type: ignore[return-value]


def reason(text: str) -> str:
    item = structures_in_poscar(text.encode(), "a", "a.vasp")[-1]
    assert isinstance(item, UnreadableRecord)
    return item.reason


def same(found: RawCrystal, species: list[str], lattice, frac) -> None:
    assert list(found.species) == species
    assert np.allclose(found.lattice, lattice, atol=1e-9)
    shift = np.asarray(found.frac_coords) - frac
    assert np.abs(shift - np.rint(shift)).max() < 1e-9


# Text that means the same crystal as FORM.
SAME = {
    "as it is": FORM,
    "wrapped symbols and counts": FORM.replace("Na Cl\n4 4", "Na\nCl\n4\n4"),
    "wrapped counts alone": FORM.replace("4 4", "4\n4"),
    "the same element twice": FORM.replace("Na Cl\n4 4", "Na Na\nCl Cl\n1 3\n2 2"),
    "comment after the symbols": FORM.replace("Na Cl", "Na Cl ! rock salt"),
    "comment with a hash": FORM.replace("4 4", "4 4 # of each"),
    "words after the symbols": FORM.replace("Na Cl", "Na Cl from mp-22862"),
    "words after the counts": FORM.replace("4 4", "4 4 atoms"),
    "words after the scale": FORM.replace("1.0", "1.0 scale"),
    "Fortran exponents": FORM.replace("5.64", "0.564D+1").replace("1.0\n", "1.0D0\n"),
    "lower case exponents": FORM.replace(".5", "5.0d-1"),
    "potential names": FORM.replace("Na Cl", "Na_pv Cl/4a7f3b"),
    "potential names of GW": FORM.replace("Na Cl", "Na_sv_GW Cl_h_GW/abc123"),
    "selective dynamics": FORM.replace("Direct", "Selective dynamics\nDirect").replace(
        ROWS, ROWS.replace("\n", " T T F\n")
    ),
    "a word that VASP takes as Direct": FORM.replace("Direct", "Fractional"),
    "three scale factors": FORM.replace("1.0", "2 4 8").replace(
        "5.64 0 0\n0 5.64 0\n0 0 5.64", "2.82 0 0\n0 1.41 0\n0 0 .705"
    ),
    "a volume": FORM.replace("1.0", "-179.406144").replace("5.64", "1"),
    "Cartesian": FORM.replace("Direct", "Cartesian").replace(".5", "2.82"),
    "Cartesian with a scale": FORM.replace("1.0", "5.64")
    .replace("5.64 0 0\n0 5.64 0\n0 0 5.64", "1 0 0\n0 1 0\n0 0 1")
    .replace("Direct", "cart"),
    "velocities after the atoms": FORM + "\n" + "0.0 0.0 0.1\n" * 8,
    "VASP 4, elements in the rows": FORM.replace("Na Cl\n", "").replace(ROWS, "")
    + "".join(f"{row} {s}\n" for row, s in zip(ROWS.splitlines(), SALT, strict=True)),
    "VASP 4, elements after the flags": FORM.replace("Na Cl\n", "")
    .replace(ROWS, "")
    .replace("Direct", "Selective\nDirect")
    + "".join(f"{row} T T T {s}\n" for row, s in zip(ROWS.splitlines(), SALT, strict=True)),
    "VASP 4, elements in the first line": FORM.replace("Na Cl\n", "").replace("salt", "Na Cl"),
    "no blank before a minus sign": FORM.replace("0 .5 .5", "0.000-0.500-0.500"),
    "line ends of Windows": FORM.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("kind", SAME)
def test_forms_that_mean_the_same_crystal(kind: str) -> None:
    (item,) = crystals(SAME[kind])
    frac = np.array([[float(x) for x in row.split()] for row in ROWS.splitlines()])
    same(item, SALT, 5.64 * np.eye(3), frac)


ORACLE = [kind for kind in SAME if kind.split()[0] not in ("three", "Fortran", "lower", "words")]


@pytest.mark.parametrize("kind", [k for k in ORACLE if "VASP 4, elements in the first" not in k])
def test_pymatgen_reads_the_same(kind: str) -> None:
    from pymatgen.io.vasp import Poscar

    text = SAME[kind]
    if "comment" in kind or "wrapped counts" in kind or "minus" in kind:
        pytest.skip("pymatgen does not read it")
    structure = Poscar.from_str(text).structure
    (item,) = crystals(text)
    same(item, [site.specie.symbol for site in structure], structure.lattice.matrix,
         structure.frac_coords)  # fmt: skip


def test_three_scale_factors_as_ase_reads_them(tmp_path: Path) -> None:
    from ase.io import read as read_by_ase

    (tmp_path / "POSCAR").write_text(SAME["three scale factors"])
    atoms = read_by_ase(tmp_path / "POSCAR")
    (item,) = crystals(SAME["three scale factors"])
    same(item, atoms.get_chemical_symbols(), atoms.cell.array, atoms.get_scaled_positions())


BAD = {
    "symbols without counts": (FORM.replace("4 4\n", ""), "must count the atoms of Na Cl"),
    "an element more than counts": (FORM.replace("Na Cl", "Na Cl O"), "must count the atoms"),
    "a count more than elements": (FORM.replace("4 4", "4 4 4"), "more counts"),
    "a count that is no integer": (FORM.replace("4 4", "4 4.0"), "must count"),
    "two scale factors": (FORM.replace("1.0", "1.0 2.0"), "line 2 must hold the scale factor"),
    "a negative one of three": (FORM.replace("1.0", "1 -1 1"), "line 2 must hold the scale"),
    "digits with underscores": (FORM.replace("5.64 0 0", "5_64 0 0"), "line 3"),
    "decimal commas": (FORM.replace("5.64", "5,64"), "line 3"),
    "no mode": (FORM.replace("Direct\n", ""), "must say Direct or Cartesian"),
    "VASP 4 without elements": (FORM.replace("Na Cl\n", ""), "VASP 4"),
    "VASP 4 with rows of another order": (
        FORM.replace("Na Cl\n", "").replace(ROWS, "")
        + "".join(f"{row} {s}\n" for row, s in zip(ROWS.splitlines(), SALT[::-1], strict=True))
        .replace("Na", "X", 1),
        "VASP 4",
    ),
    "VASP 4 with a last element that may be cut": (
        HEAD + "1 1\nDirect\n0 0 0 Cs\n.5 .5 .5 C", "may be cut"
    ),
    "rows missing": (FORM.replace("0 0 .5\n", ""), "truncated POSCAR: 8 atoms"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_refusals(kind: str) -> None:
    text, expected = BAD[kind]
    assert expected in reason(text)


def test_a_pseudo_hydrogen_is_no_hydrogen() -> None:
    (item,) = crystals(FORM.replace("Na Cl", "Na H.75"))
    with pytest.raises(Rejected, match=r"unknown element: 'pseudo-H\.75'"):
        validate(item)


# ---- XDATCAR -------------------------------------------------------------------------------------

MOVED = ROWS.replace("0 0 0\n", ".01 0 0\n", 1)
FIXED = (
    HEAD + "Na Cl\n4 4\nDirect configuration=     1\n" + ROWS
    + "Direct configuration=     2\n" + MOVED
)  # fmt: skip
VARIABLE = FIXED.replace(
    "Direct configuration=     2\n",
    HEAD.replace("5.64", "5.70") + "Na Cl\n4 4\nDirect configuration=     2\n",
)


@pytest.mark.parametrize("text", [FIXED, VARIABLE])
def test_each_frame_of_an_xdatcar_is_a_row_as_ase_and_pymatgen_read_it(
    tmp_path: Path, text: str
) -> None:
    from ase.io import read as read_by_ase
    from pymatgen.io.vasp import Xdatcar

    path = tmp_path / "XDATCAR"
    path.write_text(text)
    items = list(read(path))
    assert [item.id for item in items] == ["XDATCAR#0", "XDATCAR#1"]
    assert [item.input for item in items] == [f"{path}#0", f"{path}#1"]
    for item, atoms in zip(items, read_by_ase(path, ":", format="vasp-xdatcar"), strict=True):
        same(item, atoms.get_chemical_symbols(), atoms.cell.array, atoms.get_scaled_positions())
    for item, structure in zip(items, Xdatcar(path).structures, strict=True):
        same(item, SALT, structure.lattice.matrix, structure.frac_coords)


def test_a_frame_that_is_cut_ends_the_list_with_its_reason() -> None:
    for text in (FIXED, VARIABLE):
        first, second = structures_in_poscar(text[:-12].encode(), "a", "a")
        assert isinstance(first, RawCrystal) and isinstance(second, UnreadableRecord)
        assert second.id == "a#1" and second.reason.startswith("truncated POSCAR")
    head = VARIABLE[: VARIABLE.index("0 5.70 0")]
    first, second = structures_in_poscar(head.encode(), "a", "a")
    assert isinstance(first, RawCrystal) and "ends in its header" in second.reason


def test_frames_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phase2hpc.data.readers.poscar.MAX_FRAMES", 1)
    first, second = structures_in_poscar(FIXED.encode(), "a", "a")
    assert isinstance(first, RawCrystal) and second.reason.startswith("too many frames")


# ---- the shared cases, and names -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "species", "second"),
    [
        ("POSCAR-vasp4_coordlabels", SALT, [0, 0.5, 0.5]),
        ("POSCAR-wrapped_symbols", ["Na", "Na", "Cl", "Cl"] * 2, [0, 0.5, 0.5]),
        ("isolated_H_box6.vasp", ["H"], None),
    ],
)
def test_cases(name: str, species: list[str], second: list[float] | None) -> None:
    (item,) = read(CASES / name)
    assert isinstance(item, RawCrystal) and list(item.species) == species
    if second is not None:
        assert np.asarray(item.frac_coords)[1].tolist() == second
        assert np.allclose(item.lattice, 5.64 * np.eye(3))


def test_case_of_a_trajectory() -> None:
    items = list(read(CASES / "XDATCAR-copy.vasp"))
    assert [item.id for item in items] == ["XDATCAR-copy#0", "XDATCAR-copy#1"]
    assert all(list(item.species) == SALT for item in items)


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("POSCAR", "POSCAR"), ("poscar_1.txt", "poscar_1.txt"), ("mp-149_POSCAR", "mp-149_POSCAR"),
        ("a.POSCAR", "a"), ("CONTCAR-7", "CONTCAR-7"), ("a.vasp.gz", "a"), ("POSCAR.bz2", "POSCAR"),
        ("a.vasp.xz", "a"), ("notes.txt", "notes.txt"),
    ],
)  # fmt: skip
def test_names_of_a_poscar(tmp_path: Path, name: str, identifier: str) -> None:
    import bz2
    import gzip
    import lzma

    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    path = tmp_path / name
    data = FORM.encode()
    path.write_bytes(packed[path.suffix](data) if path.suffix in packed else data)
    (item,) = read(path)
    assert item.id == identifier and list(item.species) == SALT


def test_a_poscar_named_cif_and_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(FORM)
    shutil.copy(Path(__file__).parent / "hostile" / "ok-bom.cif", tmp_path / "b.vasp")
    first, second = read(tmp_path)
    assert list(first.species) == SALT and sorted(second.species) == sorted(SALT)


def test_a_further_atom_is_refused_and_what_may_follow_is_not() -> None:
    assert reason(FORM + ".1 .1 .1\n") == (
        "bad POSCAR: 8 atoms announced, and line 17 has coordinates of a further one"
    )
    assert reason(FORM + ".1 .1 .1 T T F\n").startswith("bad POSCAR: 8 atoms announced")
    for rest in ("", "\n", " \n" + "0 0 .1\n" * 8, "Lattice velocities and vectors\n1\n" * 2):
        assert len(crystals(FORM + rest)[0].species) == 8


@pytest.mark.parametrize(
    ("selective", "words", "expected"),
    [
        (False, "K", "bad POSCAR: line 9 names K, by the header the atom is Na"),
        (False, "K_pv", "bad POSCAR: line 9 names K, by the header the atom is Na"),
        (True, "T T F K", "bad POSCAR: line 10 names K, by the header the atom is Na"),
        (False, "Na", ""),
        (False, "Na_pv", ""),
        (False, "Na1", ""),
        (False, "In plane", ""),
        (False, "F F F", ""),
        (False, "T T T", ""),
        (False, "# K", ""),
        (True, "F F F", ""),
        (True, "F F F Na", ""),
    ],
)
def test_a_row_that_names_another_element(selective: bool, words: str, expected: str) -> None:
    text = FORM.replace("Direct\n0 0 0\n", f"Direct\n0 0 0 {words}\n")
    if selective:
        text = text.replace("Direct", "Selective dynamics\nDirect")
    if expected:
        assert reason(text) == expected
    else:
        assert list(crystals(text)[0].species) == SALT


def test_a_dos_end_of_file(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_bytes(FORM.encode() + b"\x1a")
    (item,) = read(tmp_path / "POSCAR")
    assert isinstance(item, RawCrystal) and list(item.species) == SALT
