"""One CIF for each class of file that users have: the right crystal, or the right reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import vesin

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.structures import structures_in_cif
from phase2hpc.data.validation import Rejected, validate

CASES = Path(__file__).parent / "cases"
NACL = ({"Na": 4, "Cl": 4}, 2.82)
UREA = ({"C": 2, "O": 2, "N": 4, "H": 8}, 0.9968)
ZN_O = {"Zn": 4, "O": 4}

# Atoms in the cell and the shortest distance (A), or how the reason begins and what it names.
EXPECTED: dict[str, tuple[dict[str, int], float | None] | tuple[str, str]] = {
    "amcsd_duplicate_formula.cif": UREA,
    "cctbx662_modulated.cif": ("modulated structure", "_cell_modulation_dimension"),
    "disorder_group_no_occ.cif": ("disordered", "Cl2"),
    "label_SrA_TiB_no_type.cif": ({"Sr": 1, "Ti": 1, "O": 3}, 1.9525),
    "nacl_cartn_only.cif": ("no fractional coordinates", "Cartesian"),
    "nacl_dummy_dum.cif": NACL,
    "nacl_dup_block.cif": NACL,
    "nacl_end_tag.cif": NACL,
    "nacl_hall_bad_HM_ok.cif": NACL,
    "nacl_hm_slash.cif": NACL,
    "nacl_icsd_desktop_dots.cif": NACL,
    "nacl_json_head_coremof_ddec.cif": NACL,
    "nacl_no_symmetry_info_asym.cif": ("missing symmetry", "_cell_formula_units_Z 4"),
    "nacl_quote_in_name.cif": NACL,
    "nacl_ragged_other_loop.cif": NACL,
    "nacl_zero_occ_site.cif": NACL,
    "ni_HM_ref_only.cif": ({"Ni": 4}, 3.562 / 2**0.5),
    # Its operations and centring vectors, as listed, form no group.
    "nio_magndata_dot.mcif": ("incomplete symmetry", "no group"),
    "p21c_b2.cif": (ZN_O, None),
    "p21c_n_.cif": (ZN_O, None),
    "rasp_trailing_comma.cif": UREA,
    "sym_dotted_symop.cif": NACL,
    "sym_mult_column_only.cif": ("unread symmetry", "_atom_site_symmetry_multiplicity"),
    "type_Cval.cif": ({"C": 4, "Cl": 4}, 2.82),
    "zno_frac.cif": ({"Zn": 2, "O": 2}, 1.9749),
}


def read(text: str | bytes) -> list[RawCrystal | UnreadableRecord]:
    return structures_in_cif(text.encode() if isinstance(text, str) else text, "x", "x.cif")


def outcome(text: str | bytes) -> str:
    """The atoms of the one crystal in a CIF as "Cl4 Na4", or the reason."""
    (item,) = read(text)
    if isinstance(item, UnreadableRecord):
        return item.reason
    try:
        validate(item)
    except Rejected as error:
        return str(error)
    counts = Counter(element(symbol) for symbol in item.species)
    return " ".join(f"{symbol}{count}" for symbol, count in sorted(counts.items()))


def element(symbol: str) -> str:
    return symbol.rstrip("+-0123456789")


def shortest(item: RawCrystal) -> float:
    search = vesin.NeighborList(cutoff=4.0, full_list=False)
    (distances,) = search.compute(
        points=np.asarray(item.frac_coords) @ item.lattice,
        box=item.lattice,
        periodic=True,
        quantities="d",
    )
    return float(distances.min())


def test_every_case_has_an_expectation() -> None:
    assert {path.name for path in CASES.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_case(name: str) -> None:
    expected, detail = EXPECTED[name]
    items = read((CASES / name).read_bytes())
    assert len(items) == (2 if name == "nacl_dup_block.cif" else 1)
    for item in items:
        if isinstance(expected, str):
            assert isinstance(item, UnreadableRecord), name
            assert item.reason.startswith(expected + ": ") and str(detail) in item.reason
            assert len(item.reason) < 250 and item.reason.isprintable()
            continue
        assert isinstance(item, RawCrystal), item
        validate(item)
        assert Counter(map(element, item.species)) == expected
        if detail is not None:
            assert shortest(item) == pytest.approx(detail, abs=2e-3)


def test_the_setting_b2_is_the_one_with_the_glide_plane_n() -> None:
    operations = [
        lambda x, y, z: (x, y, z),
        lambda x, y, z: (0.5 - x, 0.5 + y, 0.5 - z),
        lambda x, y, z: (-x, -y, -z),
        lambda x, y, z: (0.5 + x, 0.5 - y, 0.5 + z),
    ]
    sites = [(0.13, 0.21, 0.17), (0.31, 0.62, 0.77)]
    expected = sorted(tuple(np.round(np.mod(op(*s), 1), 9)) for s in sites for op in operations)
    for name in ("p21c_b2.cif", "p21c_n_.cif"):
        (item,) = read((CASES / name).read_bytes())
        assert isinstance(item, RawCrystal)
        assert sorted(tuple(np.round(row, 9)) for row in np.asarray(item.frac_coords)) == expected


def test_duplicate_blocks_have_different_ids() -> None:
    items = read((CASES / "nacl_dup_block.cif").read_bytes())
    assert [item.id for item in items] == ["x#x", "x#x(2)"]
    assert [item.input for item in items] == ["x.cif#x", "x.cif#x(2)"]


# ---- members of each class that no file was given for --------------------------------------

CELL = """_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na 0 0 0
Cl1 Cl .5 .5 .5
"""
NUMBER = "_symmetry_Int_Tables_number 225\n"
FULL = "Cl4 Na4"
INVERSION = "x,y,z\n-x,-y,-z\n"


def with_head(head: str) -> str:
    return f"data_x\n{head}{CELL}{SITES}"


def with_column(tag: str, first: str, second: str, head: str = "") -> str:
    return (
        with_head(head)
        .replace("_atom_site_fract_x", f"{tag}\n_atom_site_fract_x")
        .replace("Na 0", f"Na {first} 0")
        .replace("Cl .5", f"Cl {second} .5")
    )


def with_labels(first: str, second: str) -> str:
    text = with_head(NUMBER).replace("_atom_site_type_symbol\n", "")
    return text.replace("Na1 Na", first).replace("Cl1 Cl", second)


READ = {
    "mmCIF symbol": with_head("_symmetry.space_group_name_H-M 'F m -3 m'\n"),
    "dots and letter case everywhere": (
        with_head("_Space_Group.Name_H-M_Alt 'F m -3 m'\n")
        .replace("_cell_length_", "_cell.length_")
        .replace("_cell_angle_", "_CELL.Angle_")
        .replace("_atom_site_", "_atom_site.")
    ),
    "dots in half of the tags": with_head(NUMBER).replace("site_fract_y", "site.fract_y"),
    "dotted number": with_head("_space_group.IT_number 225\n"),
    "dotted Hall symbol": with_head("_space_group.name_Hall '-F 4 2 3'\n"),
    "Hall symbol in more quotes": with_head("_space_group_name_Hall \"'-F 4 2 3'\"\n"),
    "full symbol": with_head("_space_group_name_H-M_full 'F 4/m -3 2/m'\n"),
    "old symbol": with_head("_symmetry_space_group_name_H-M 'F m 3 m'\n"),
    "symbol with a bar": with_head("_symmetry_space_group_name_H-M 'F m \\bar{3} m'\n"),
    "symbol with its number": with_head("_symmetry_space_group_name_H-M 'Fm-3m (225)'\n"),
    "symbol without quotes": with_head("_symmetry_space_group_name_H-M F m -3 m\n"),
    "symbol with a comma behind": with_head("_symmetry_space_group_name_H-M 'F m -3 m',\n"),
    "symbol unknown, number known": with_head("_symmetry_space_group_name_H-M ?\n" + NUMBER),
    "number 0 beside a symbol": with_head(
        "_symmetry_space_group_name_H-M 'F m -3 m'\n_symmetry_Int_Tables_number 0\n"
    ),
    "Hall symbol unreadable": with_head("_symmetry_space_group_name_Hall ';'\n" + NUMBER),
    "the same tag twice": with_head(NUMBER + "_cell_length_a 5.64\n"),
    "volume 0": with_head(NUMBER + "_cell_volume 0\n"),
    "no modulation": with_head(NUMBER + "_cell_modulation_dimension 0\n"),
    "halves and dots": with_head(NUMBER).replace(".5", "1/2").replace("0 0 0", ". . ."),
    "text and comment before": "exported by hand\n# 2020\n" + with_head(NUMBER),
    "quote not closed": "data_x\n_a 'b\n" + NUMBER + CELL + SITES,
    "tag without a value": "data_x\n_a\n" + NUMBER + CELL + SITES,
    "value too many": "data_x\n_a b c\n" + NUMBER + CELL + SITES,
    "emptied loop": with_head(NUMBER) + "loop_\n_geom_bond_distance\n",
    "ragged loop before": "data_x\nloop_\n_a\n_b\n1 2 3\n" + NUMBER + CELL + SITES,
    "one disorder group": with_column("_atom_site_disorder_group", "1", ".", NUMBER),
    "a group in each of two assemblies": with_column(
        "_atom_site_disorder_assembly\n_atom_site_disorder_group", "A 1", "B 2", NUMBER
    ),
    "vacancy": with_head(NUMBER) + "V1 Vac .25 .25 .25\n",
    "vacancy of a type": with_head(NUMBER) + "Va1 Va .25 .25 .25\n",
    "multiplicity written wrongly": with_column(
        "_atom_site_symmetry_multiplicity", "192", "1", NUMBER
    ),
}

REFUSED = {
    "name of a superspace group": (
        with_head("_space_group_ssg_name 'X'\n"), "modulated structure: _space_group_ssg_name",
    ),
    "superspace operations": (
        with_head("loop_\n_space_group_symop_ssg.operation_algebraic\nx1,x2,x3,x4\n"),
        "modulated structure: _space_group_symop_ssg.operation_algebraic",
    ),
    "displacement waves": (
        with_head(NUMBER + "_atom_site_displace_Fourier_id a\n"), "modulated structure",
    ),
    "composite": (with_head("_cell_subsystems_number 2\n"), "modulated structure"),
    "another program's tag": (
        with_head("_my_spacegroup 'F m -3 m'\n"), "unread symmetry: _my_spacegroup",
    ),
    "crystal system": (
        with_head("_space_group_crystal_system cubic\n"), "_space_group_crystal_system",
    ),
    "Wyckoff letter": (
        with_column("_atom_site_Wyckoff_symbol", "a", "b"), "_atom_site_Wyckoff_symbol says 'b'",
    ),
    "site symmetry order": (
        with_column("_atom_site_site_symmetry_order", "48", "48"), "symmetry_order says '48'",
    ),
    "magnetic group number": (with_head("_space_group_magn.number_BNS 225.116\n"), "number_BNS"),
    "parent group": (
        with_head("_parent_space_group.name_H-M_alt 'F m -3 m'\n"), "_parent_space_group",
    ),
    "moments without symmetry": (
        with_column("_atom_site_moment.crystalaxis_x", "1.0", "0"), "_atom_site_moment",
    ),
    "numbers of operations": (
        with_head("loop_\n_symmetry_equiv_pos_site_id\n1\n2\n"), "_symmetry_equiv_pos_site_id",
    ),
    "symmetry code of a bond": (
        with_head("_geom_bond_site_symmetry_2 3_555\n"), "_geom_bond_site_symmetry_2",
    ),
    "Pearson symbol": (with_head("_x_pearson_symbol cF8\n"), "_x_pearson_symbol says 'cF8'"),
    "operation in an unknown tag": (
        with_head("loop_\n_my_list\nx,y,z\n-x,-y,z+1/2\n"), "_my_list says '-x,-y,z+1/2'",
    ),
    "group in an unknown tag": (with_head("_my_group 'F m -3 m'\n"), "_my_group says 'F m -3 m'"),
    "several cells": (
        with_head(NUMBER).replace("_cell_length_a 5.64", "loop_\n_cell_length_a\n5.64\n5.7"),
        "several cells: _cell_length_a",
    ),
    "several symbols": (
        with_head("loop_\n_space_group_name_H-M_alt\n'F m -3 m'\n'P m -3 m'\n"),
        "conflicting symmetry",
    ),
    "density": (with_head("_exptl_crystal_density_diffrn 2.165\n"), "missing symmetry"),
    "weight": (
        with_head("_chemical_formula_weight 58.44\n_cell_formula_units_Z 4\n"), "missing symmetry",
    ),
    "units alone": (with_head("_cell_formula_units_Z 4\n"), "1 sites of Na do not make"),
    **{
        f"units and {kind} formula": (
            with_head(f"_chemical_formula_{kind} 'Na Cl'\n_cell_formula_units_Z 4\n"),
            f"4 times _chemical_formula_{kind}, 8 atoms",
        )
        for kind in ("moiety", "structural", "analytical", "iupac")
    },
    "symmetry in another block": (
        "data_g\n_symmetry_space_group_name_H-M 'F m -3 m'\n" + with_head(""),
        "_symmetry_space_group_name_H-M in the block data_g",
    ),
    "symmetry in a global block": ("global_\n" + NUMBER + with_head(""), "unread symmetry"),
    "symmetry perhaps in an open quote": (with_head("_a 'b\n"), "missing symmetry: no symmetry"),
    "symbol without a value": (with_head("_symmetry_space_group_name_H-M\n"), "has no value"),
    "operations without rows": (with_head("loop_\n_symmetry_equiv_pos_as_xyz\n"), "damaged loop"),
    "unknown setting": (
        with_head("_symmetry_space_group_name_H-M 'F m -3 m:foo'\n"), "the setting 'foo'",
    ),
    "setting against the symbol": (
        with_head("_symmetry_space_group_name_H-M 'P 1 21/n 1:b1'\n"), "the setting 'b1'",
    ),
    "Hall symbol of another group": (
        with_head("_symmetry_space_group_name_Hall 'P 1'\n" + NUMBER), "conflicting symmetry",
    ),
    "Hall symbol of another setting": (
        with_head(
            "_space_group_name_Hall '-P 2ybc'\n_space_group_name_H-M_alt 'P 1 21/n 1'\n"
        ), "different settings",
    ),
    "two symbols": (
        with_head(
            "_symmetry_space_group_name_H-M 'F m -3 m'\n_space_group_name_H-M_alt 'P m -3 m'\n"
        ), "conflicting symmetry",
    ),
    "symbol unreadable, number known": (
        with_head("_symmetry_space_group_name_H-M 'F oo bar'\n" + NUMBER), "unknown space group",
    ),
    "only the identity, symbol unreadable": (
        with_head(
            "_symmetry_space_group_name_H-M 'F oo'\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n"
        ), "conflicting symmetry: only x,y,z",
    ),
    "operations in two lists": (
        with_head(
            "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n"
            "loop_\n_space_group_symop_operation_xyz\n" + INVERSION
        ), "two lists of symmetry operations differ",
    ),
    "operations of a shifted origin against the symbol": (
        with_head(
            "_symmetry_space_group_name_H-M 'F m -3 m'\n"
            "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x+1/6,-y,-z\n"
        ), "conflicting symmetry",
    ),
    "centring that the rotations do not keep": (
        with_head(
            "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\ny,x,-z\nx,y+1/2,z+1/2\ny,x+1/2,-z+1/2\n"
        ), "incomplete symmetry",
    ),
    "cell in two spellings": (
        with_head(NUMBER + "_cell.length_a 5.65\n"), "duplicate tag _cell_length_a",
    ),
    "two loops of sites": (
        with_head(NUMBER) + SITES.replace("Na", "K"), "duplicate tag _atom_site_fract_x",
    ),
    "coordinates in a loop of their own": (
        with_head(NUMBER).replace("_atom_site_fract_x\n", "").replace("0 0 0", "0 0")
        .replace(".5 .5 .5", ".5 .5") + "loop_\n_atom_site_fract_x\n0\n.5\n", "damaged loop",
    ),
    "sites ragged": (with_head(NUMBER) + "K1\n", "damaged loop: the values of the loop at line 9"),
    "text field not closed": ("data_x\n" + NUMBER + "_a\n;b\n" + CELL + SITES, "truncated"),
    "tags before the first block": (NUMBER + with_head(""), "not a CIF: line 1"),
    "disorder about a special position": (
        with_column("_atom_site_disorder_group", ".", "-1", NUMBER), "disordered: Cl1",
    ),
    "alternative in the label": (
        with_head(NUMBER).replace("Cl1 ", "Cl1? "), "disordered: the label Cl1?",
    ),
    "tetrahedral site": (with_labels("T1", "O1"), "ambiguous element: label T1"),
    "two elements in a label": (with_labels("SiAl", "O1"), "unknown element: label 'SiAl'"),
    "mixture": (
        with_head(NUMBER).replace("Na1 Na", "M1 '0.5Na + 0.5K'"), "disordered: the type symbol",
    ),
    "all sites empty": (
        with_column("_atom_site_calc_flag", "dum", "dum", NUMBER), "no atoms: all sites",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_read(name: str) -> None:
    assert outcome(READ[name]) == FULL


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, expected = REFUSED[name]
    reason = outcome(text)
    assert expected in reason and ": " in reason and len(reason) < 250


def test_p1_where_nothing_speaks_against_it() -> None:
    for text in (
        with_head(""),
        with_head("_symmetry_cell_setting triclinic\n"),
        with_head("_symmetry_space_group_name_H-M ?\n_symmetry_Int_Tables_number 0\n"),
        with_head("_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 1\n"),
        with_column("_atom_site_symmetry_multiplicity", "1", "?"),
        with_column("_atom_site_Wyckoff_symbol", "a", "a"),
    ):
        assert outcome(text) == "Cl1 Na1"


def test_labels_with_a_site_behind_the_element() -> None:
    assert outcome(with_labels("NaM1", "OA")) == "Na4 O4"
    assert outcome(with_labels("FeT", "OW1")) == "Fe4 O4"
    assert outcome(with_labels("AlOct", "Ow1")) == "Al4 O4"
    assert outcome(with_labels("Sia", "Oa")) == "O4 Si4"
    for word in ("Site", "Wat1", "Cen", "Du1", "Cg1", "FeMg"):
        assert "unknown element: label" in outcome(with_labels(word, "O1"))


def test_magnetic_operations_give_the_nuclear_structure() -> None:
    """NiO doubled along c, its inversion and the anti-centring, time reversal dropped."""
    text = with_head(
        "_space_group_magn.number_BNS 2.7\n"
        "loop_\n_space_group_symop_magn_operation.id\n_space_group_symop_magn_operation.xyz\n"
        "1 x,y,z,+1\n2 -x,-y,-z,+1\n"
        "loop_\n_space_group_symop_magn_centering.id\n_space_group_symop_magn_centering.xyz\n"
        "1 x,y,z,+1\n2 x+1/2,y+1/2,z,-1\n"
    )
    assert outcome(text) == "Cl2 Na2"


SYMBOLS = {
    "P2_1/c": "P 1 21/c 1", "P 2(1)/c": "P 1 21/c 1", "P21/c:c3": "P 1 1 21/b",
    "P 21/n": "P 1 21/n 1", "C 2/c :b3": "I 1 2/a 1", "P 21/n 21/m 21/a": "P n m a",
    "Pnma:cab": "P b n m", "C m c e": "C m c a", "p 63 / m m c": "P 63/m m c",
    "P 63/m 2/m 2/c": "P 63/m m c", "P -3 2/m 1": "P -3 m 1", "R -3 2/m": "R -3 m:H",
    "R -3 m H": "R -3 m:H", "R-3m:h": "R -3 m:H", "H -3 m": "R -3 m:H", "R -3 m R": "R -3 m:R",
    "F d -3 m Z": "F d -3 m:2", "Fd-3mS": "F d -3 m:1", "F 41/d -3 2/m :2": "F d -3 m:2",
    "F d -3 m (origin choice 2)": "F d -3 m:2", "P 3 2 1": "P 3 2 1", "P m 3 m": "P m -3 m",
    "I 41/a -3 2/d": "I a -3 d", "P b a n:2cab": "P n c b:2", "P 1 1 2": "P 1 1 2",
}  # fmt: skip


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_symbols_as_people_write_them(symbol: str) -> None:
    from phase2hpc.data.readers.cif.space_groups import by_name

    named = by_name(symbol, [4.0, 4.0, 6.0, 90.0, 90.0, 120.0])
    assert named is not None and not named.open_setting
    assert named.group.xhm() == SYMBOLS[symbol]


def test_all_groups_of_the_tables_are_groups_and_found_by_their_names() -> None:
    import gemmi

    from phase2hpc.data.readers.cif.operations import group_of, operation_set
    from phase2hpc.data.readers.cif.space_groups import by_name

    for entry in gemmi.spacegroup_table():
        triplets = [op.triplet() for op in entry.operations()]
        group = group_of(triplets)
        assert operation_set(group) == operation_set(entry.operations())
        if entry.ext in ("1", "2", "H", "R") or ":" not in entry.xhm():
            cell = [4.0, 4.0, 4.0, 90.0, 90.0, 120.0 if entry.ext == "H" else 90.0]
            named = by_name(entry.xhm(), cell)
            assert named is not None and named.group.xhm() == entry.xhm()
