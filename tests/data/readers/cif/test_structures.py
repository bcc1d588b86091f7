"""CIF: good files agree with pymatgen, bad ones get one clear reason, no byte raises."""

import gzip
import json
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.readers.structure_files import read_structure_file
from phase2hpc.data.validation import Rejected, validate

SAMPLE = ROOT / "data" / "jarvis_dft3d_15k.jsonl.gz"
EXAMPLES = sorted((ROOT / "data" / "examples").glob("*.cif"))

CELL = """data_NaCl
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
SYMMETRY = "_symmetry_space_group_name_H-M 'F m -3 m'\n"
LOOP = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
ROWS = "Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1\n"
GOOD = CELL + SYMMETRY + LOOP + ROWS
OPERATIONS = "loop_\n_symmetry_equiv_pos_as_xyz\n"


def changed(old: str, new: str, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new)


def outcome(data: str | bytes) -> str:
    """The reason of a bad CIF, the number of atoms of a good one."""
    items = structures_in_cif(data.encode() if isinstance(data, str) else data, "x", "x.cif")
    assert len(items) == 1
    item = items[0]
    if isinstance(item, UnreadableRecord):
        return item.reason
    try:
        return str(len(validate(item).numbers))
    except Rejected as error:
        return str(error)


GOOD_FILES = {
    "plain": (GOOD, 8),
    "windows line ends": (changed("\n", "\r\n"), 8),
    "old mac line ends": (changed("\n", "\r"), 8),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), 8),
    "utf-16": (GOOD.encode("utf-16"), 8),
    "latin-1 in a comment": (b"# Universit\xe4t\n" + GOOD.encode(), 8),
    "latin-1 in a bare value": (changed("data_NaCl\n", "data_NaCl\n_a Mü\n").encode("latin-1"), 8),
    "uncertainties": (changed("length_a 5.64", "length_a 5.640(5)"), 8),
    "quoted values": (changed("Na1 Na", "\"Na1\" 'Na'"), 8),
    "oxidation states": (changed("Cl1 Cl", "Cl1 Cl1-", changed("Na1 Na", "Na1 Na+1")), 8),
    "labels only": (
        CELL + SYMMETRY + changed("_atom_site_type_symbol\n", "", LOOP)
        + "Na1 0 0 0 1\nCl1 0.5 0.5 0.5 1\n", 8,
    ),
    "deuterium": (changed("Na1 Na", "D1 D"), 8),
    "upper-case tags": (changed("_cell_length_a", "_CELL_LENGTH_A"), 8),
    "unknown occupancy is full": (changed("0.5 1\n", "0.5 ?\n"), 8),
    "no symmetry is P1": (CELL + LOOP + ROWS, 2),
    "symbol without blanks": (changed("F m -3 m", "Fm-3m"), 8),
    "number only": (changed(SYMMETRY, "_space_group_IT_number 225\n"), 8),
    "Hall symbol only": (changed(SYMMETRY, "_space_group_name_Hall '-F 4 2 3'\n"), 8),
    "origin choice 1": (changed("F m -3 m", "F d -3 m:1"), 16),
    "origin choice in ICSD's way": (changed("F m -3 m", "F d -3 m S"), 16),
    "origin choice 2": (changed("F m -3 m", "F d -3 m Z"), 32),
    "one site without a loop": (
        CELL + "_atom_site_label Po1\n_atom_site_fract_x 0\n_atom_site_fract_y 0\n"
        "_atom_site_fract_z 0\n", 1,
    ),
    "formula agrees": (GOOD + "_chemical_formula_sum 'Cl Na'\n", 8),
    "formula is free text": (GOOD + "_chemical_formula_sum 'rock salt'\n", 8),
    "a block of text before": ("data_global\n_journal_year 1913\n" + GOOD, 8),
}  # fmt: skip

BAD_FILES = {
    "empty": ("", "empty file"),
    "blank": (" \n\n", "empty file"),
    "only a comment": ("# later\n", "no data_ block"),
    "junk": ("hello world\n", "not a CIF: line 1, 'hello world'"),
    "web page": ("<!DOCTYPE html><html></html>", "web page"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00", "binary data"),
    "open quote": (changed("'F m -3 m'", "'F m -3 m"), "line 8"),
    "cut in a value": (GOOD[: GOOD.index("90") - 1].rstrip(), "line 5"),
    "cut in a row": (changed("0.5 1\n", "0.5\n"), "loop at line 9"),
    "cut before the rows": (CELL + SYMMETRY + LOOP, "no atoms"),
    "cut before the sites": (CELL + SYMMETRY, "no atoms"),
    "cut between rows": (
        changed("Cl1 Cl 0.5 0.5 0.5 1\n", "", "#\n" + GOOD).replace(
            "_cell_length_a", "_chemical_formula_sum 'Na Cl'\n_cell_length_a"
        ),
        "missing atoms: the sites make Na4, _chemical_formula_sum says Na Cl",
    ),
    "fewer atoms than the formula": (
        CELL + LOOP + ROWS + "_chemical_formula_sum 'Na4 Cl4'\n", "missing atoms",
    ),
    "ragged row": (GOOD + "K1\n", "ragged row"),
    "tag twice": (changed(SYMMETRY, "_cell_length_a 3\n"), "duplicate tag _cell_length_a"),
    "no cell": ("data_a\n" + LOOP + ROWS, "no cell: _cell_length_a"),
    "unknown cell": (changed("length_b 5.64", "length_b ?"), "no cell: _cell_length_b"),
    "nan cell": (changed("length_a 5.64", "length_a nan"), "bad cell: _cell_length_a is 'nan'"),
    "infinite cell": (changed("length_a 5.64", "length_a 1e999"), "bad cell"),
    "zero cell": (changed("length_a 5.64", "length_a 0"), "bad cell"),
    "negative cell": (changed("length_a 5.64", "length_a -5"), "bad cell"),
    "decimal comma": (changed("length_a 5.64", "length_a 5,64"), "bad cell"),
    "straight angle": (changed("alpha 90", "alpha 180"), "bad cell"),
    "angles that close no cell": (
        changed("beta 90", "beta 30", changed("alpha 90", "alpha 150")), "close no cell",
    ),
    "cell in picometre": (changed("5.64", "564"), "volume:"),
    "cell in nanometre": (changed("5.64", "0.564"), "volume:"),
    "unknown coordinate": (changed("Cl 0.5", "Cl ?"), "fract_x of Cl1 is '?', it has no position"),
    "coordinate as an impossible ratio": (changed("Cl 0.5", "Cl 1/0"), "bad coordinates"),
    "a dash as minus": (changed("Cl 0.5", "Cl \u20130.5"), "bad coordinates"),
    "Cartesian only": (changed("fract", "Cartn"), "only Cartesian"),
    "one axis only": (CELL + "_atom_site_label Na1\n_atom_site_fract_x 0\n", "no coordinates"),
    "neither labels nor types": (
        CELL + "_atom_site_fract_x 0\n_atom_site_fract_y 0\n_atom_site_fract_z 0\n",
        "unknown element",
    ),
    "partial occupancy": (changed("0.5 1\n", "0.5 0.9\n"), "disordered: site 5 (Cl)"),
    "shared site": (changed("0 0 0 1\n", "0 0 0 0.5\nK1 K 0 0 0 0.5\n"), "disordered"),
    "unreadable occupancy": (changed("0.5 1\n", "0.5 full\n"), "bad occupancy"),
    "site twice": (changed("0 0 0 1\n", "0 0 0 1\nK1 K 0 0 0 1\n"), "same site twice"),
    "site twice by symmetry": (GOOD + "Na2 Na 0 0.5 0.5 1\n", "same site twice"),
    "water": (changed("Cl1 Cl", "Wat1 Wat"), "unknown element: 'Wat'"),
    "dummy": (changed("Cl1 Cl", "X1 X"), "unknown element: 'X'"),
    "water label": (changed("Cl1 Cl", "Wat1 ."), "unknown element: label 'Wat1'"),
    "ambiguous label": (changed("Na1 Na", "NA1 ?"), "NA1 may be N or Na"),
    "attached hydrogens": (changed("_occupancy", "_attached_hydrogens"), "attached hydrogens"),
    "operations against the symbol": (
        changed(SYMMETRY, SYMMETRY + OPERATIONS + "x,y,z\n"), "conflicting symmetry",
    ),
    "number against the symbol": (
        changed(SYMMETRY, SYMMETRY + "_space_group_IT_number 62\n"), "conflicting symmetry",
    ),
    "operations against the cell": (changed("length_c 5.64", "length_c 8"), "do not fit the cell"),
    "half a group": (
        changed(SYMMETRY, OPERATIONS + "x,y,z\n-x,y,z\nx,-y,z\n"), "incomplete symmetry",
    ),
    "no operation": (
        changed(SYMMETRY, OPERATIONS + "x,y,z\nx,y\n"), "bad symmetry operation: 'x,y'",
    ),
    "operations with blanks and no quotes": (
        changed(SYMMETRY, OPERATIONS + "x, y, z\n-x, -y, z\n"),
        "bad symmetry operation: 'x,' (one with blanks needs quotes: 'x, y, z')",
    ),
    "singular operation": (changed(SYMMETRY, OPERATIONS + "x,y,z\nx,x,z\n"), "bad symmetry"),
    "unknown symbol": (changed("F m -3 m", "Q m m"), "unknown space group: 'Q m m'"),
    "unknown number": (changed(SYMMETRY, "_space_group_IT_number 999\n"), "number 999"),
    "unknown Hall symbol": (changed(SYMMETRY, "_space_group_name_Hall 'foo'\n"), "Hall symbol"),
    "two origin choices": (changed("F m -3 m", "F d -3 m"), "two origin choices"),
    "mmCIF": ("data_1ABC\n_cell.length_a 10\nloop_\n_atom_site.Cartn_x\n1\n", "mmCIF"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_FILES)
def test_good_files(name):
    data, atoms = GOOD_FILES[name]
    assert outcome(data) == str(atoms)


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_have_one_clear_reason(name):
    data, expected = BAD_FILES[name]
    reason = outcome(data)
    assert expected in reason
    assert ": " in reason and "\n" not in reason and len(reason) < 250


def test_blocks_become_items():
    items = structures_in_cif(
        (GOOD + GOOD.replace("NaCl", "bad", 1).replace("0.5", "?")).encode(), "f", "f.cif"
    )
    assert [item.id for item in items] == ["f#NaCl", "f#bad"]
    assert [item.input for item in items] == ["f.cif#NaCl", "f.cif#bad"]
    assert isinstance(items[0], RawCrystal) and isinstance(items[1], UnreadableRecord)


def test_unreadable_paths(tmp_path):
    (tmp_path / "folder.cif").mkdir()
    (item,) = read_structure_file(tmp_path / "folder.cif")
    assert isinstance(item, UnreadableRecord) and item.reason == "not a file: it is a folder"
    (item,) = read_structure_file(tmp_path / "absent.cif")
    assert "No such file" in item.reason
    (tmp_path / "cut.cif.gz").write_bytes(gzip.compress(GOOD.encode())[:-20])
    (item,) = read_structure_file(tmp_path / "cut.cif.gz")
    assert isinstance(item, UnreadableRecord) and item.reason.startswith("damaged: its compressed")


def test_examples_are_the_sample_crystals():
    assert 6 <= len(EXAMPLES) <= 10
    with gzip.open(SAMPLE, "rt") as handle:
        records = {record["id"]: record for record in map(json.loads, handle)}
    for path in EXAMPLES:
        (item,) = read_structure_file(path)
        crystal = validate(item)
        record = records[path.read_text().split()[1]]
        cells = len(crystal.numbers) / len(record["species"])
        assert cells == round(cells), path.name
        volume = abs(np.linalg.det(crystal.lattice)) / cells
        assert volume == pytest.approx(abs(np.linalg.det(record["lattice"])), rel=1e-5)


# ---- comparison with pymatgen and ase --------------------------------------------------


@lru_cache
def sample_structures(count: int):
    from pymatgen.core import Structure

    with gzip.open(SAMPLE, "rt") as handle:
        records = [json.loads(line) for line in handle]
    chosen = [r for r in records[:: len(records) // count] if len(r["species"]) <= 24]
    return [Structure(r["lattice"], r["species"], r["frac_coords"]) for r in chosen]


def assert_same(text: str, expected) -> None:
    """Equal atoms, volume and sorted distances to neighbours as the pymatgen structure."""
    from pymatgen.core import Structure

    (item,) = structures_in_cif(text.encode(), "x", "x.cif")
    assert isinstance(item, RawCrystal), item.reason
    crystal = validate(item)
    assert sorted(crystal.numbers.tolist()) == sorted(expected.atomic_numbers)
    assert abs(np.linalg.det(crystal.lattice)) == pytest.approx(expected.volume, rel=1e-4)
    ours = Structure(crystal.lattice, crystal.numbers.tolist(), crystal.frac_coords)
    pairs = [np.sort(s.get_neighbor_list(4.0)[3]) for s in (ours, expected)]
    k = min(len(pair) for pair in pairs)
    assert k >= 0.95 * max(len(pair) for pair in pairs)  # a shell may lie at the cutoff
    assert np.abs(pairs[0][:k] - pairs[1][:k]).max(initial=0) < 5e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [{}, {"symprec": 0.01}, {"symprec": 0.01, "significant_figures": 5}]
)
def test_agrees_with_pymatgen(options):
    from pymatgen.io.cif import CifParser, CifWriter

    misread = 0
    for structure in sample_structures(25):
        text = str(CifWriter(structure, **options))
        (expected,) = CifParser.from_str(text).parse_structures(primitive=False)
        # Rounding sometimes makes pymatgen itself read more atoms than it wrote.
        if expected.reduced_formula == structure.reduced_formula:
            assert_same(text, expected)
        else:
            misread += 1
            assert outcome(text).isdecimal()
    assert misread <= 1


@pytest.mark.filterwarnings("ignore")
def test_rounded_special_positions_do_not_double_atoms():
    """Four digits, where pymatgen itself reads back some structures with too many atoms."""
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    for structure in sample_structures(25):
        text = str(CifWriter(structure, symprec=0.01, significant_figures=4))
        conventional = SpacegroupAnalyzer(structure, 0.01).get_refined_structure()
        (item,) = structures_in_cif(text.encode(), "x", "x.cif")
        assert len(validate(item).numbers) == len(conventional)


def test_a_third_written_as_0_3333_is_put_on_its_position():
    text = (
        CELL.replace("5.64", "3.2").replace("gamma 90", "gamma 120")
        + "_symmetry_space_group_name_H-M 'P 63/m m c'\n" + LOOP + "Mg1 Mg 0.3333 0.6667 0.25 1\n"
    )  # fmt: skip
    (item,) = structures_in_cif(text.encode(), "x", "x.cif")
    found = sorted(np.asarray(item.frac_coords).tolist())
    assert np.allclose(found, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_files_of_ase(tmp_path):
    from ase.io import write
    from ase.spacegroup import crystal as ase_crystal
    from pymatgen.io.ase import AseAtomsAdaptor

    rutile = ase_crystal(
        ["Ti", "O"],
        [(0, 0, 0), (0.3, 0.3, 0)],
        spacegroup=136,
        cellpar=[4.6, 4.6, 2.95, 90, 90, 90],
    )
    atoms = [AseAtomsAdaptor.get_atoms(s) for s in sample_structures(12)]
    for number, one in enumerate([rutile, *atoms]):
        path = tmp_path / f"{number}.cif"
        write(path, one)
        assert_same(path.read_text(), AseAtomsAdaptor.get_structure(one))


@pytest.mark.filterwarnings("ignore")
def test_space_group_by_name_alone():
    """Operations removed: the symbol gives the same crystal, or an honest no for two origins."""
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifParser

    compared = 0
    for path in EXAMPLES:
        text = path.read_text()
        if "_symmetry_equiv_pos_as_xyz" not in text or "'P 1'" in text or "  P1\n" in text:
            continue
        start = text.index("loop_\n _symmetry")
        by_name = text[:start] + text[text.index("loop_", start + 5) :]
        if "Fd-3m" in text:
            assert "two origin choices" in outcome(by_name)
            continue
        (expected,) = CifParser.from_str(text).parse_structures(primitive=False)
        assert isinstance(expected, Structure)
        assert_same(by_name, expected)
        compared += 1
    assert compared >= 4


# ---- whatever happens to a file ------------------------------------------------------------


def check_never_raises(data: bytes) -> None:
    items = structures_in_cif(data, "x", "x.cif")
    assert items
    for item in items:
        if isinstance(item, UnreadableRecord):
            assert len(item.reason) > 10 and "\n" not in item.reason
            continue
        try:
            crystal = validate(item)
        except Rejected as error:
            assert error.kind and len(str(error)) > 10
        else:
            assert np.isfinite(crystal.frac_coords).all() and len(crystal.numbers)


RUTILE = (ROOT / "data" / "examples" / "RuO2-rutile.cif").read_bytes()


def test_truncated_anywhere():
    """Every cut is a reason or the whole crystal (only trailing digits of the last row lost)."""
    whole = 6
    for end in range(len(RUTILE)):
        (item,) = structures_in_cif(RUTILE[:end], "x", "x.cif")
        if isinstance(item, RawCrystal):
            assert len(item.species) == whole
            assert end > len(RUTILE) - 15
        else:
            assert len(item.reason) > 10


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(RUTILE) - 1), st.integers(0, 12), st.binary(max_size=4))
def test_mutated_anywhere(start, removed, inserted):
    check_never_raises(RUTILE[:start] + inserted + RUTILE[start + removed :])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_junk(data):
    check_never_raises(data)
    check_never_raises(b"data_a\n" + data)


def test_heavy_libraries_stay_out():
    """Reading must import neither torch nor pymatgen: they cost seconds."""
    code = (
        "import sys; import phase2hpc.data.readers.registry, phase2hpc.data.splits; "
        "bad = {'torch', 'pymatgen', 'ase', 'pandas', 'scipy'} & set(sys.modules); "
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
