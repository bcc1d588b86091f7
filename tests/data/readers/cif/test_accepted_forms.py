"""Ways to write the same crystal that files of each class have."""

from __future__ import annotations

from pathlib import Path

import pytest
from cif_texts import CELL, NUMBER, SITES, outcome, with_column, with_head, with_labels

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.readers.structure_files import read_structure_file

FULL = "Cl4 Na4"


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


@pytest.mark.parametrize("name", READ)
def test_read(name: str) -> None:
    assert outcome(READ[name]) == FULL


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


def mixed(first: str, second: str, head: str = "") -> str:
    """Rock salt whose Na site holds two entries, each a type symbol and an occupancy."""
    return with_column("_atom_site_occupancy", "1", "1", NUMBER + head).replace(
        "Na1 Na 1 0 0 0\n", f"M1 {first} 0 0 0\nM2 {second} 0 0 0\n"
    )


@pytest.mark.parametrize(
    ("first", "second", "head", "expected"),
    [
        ("Fe2+ .5", "Fe3+ .5", "", "Cl4 Fe4"),
        ("Na1+ 0.5", "Na1+ 0.5", "_chemical_formula_sum 'Na Cl'\n", "Cl4 Na4"),
        ("H .5", "D .5", "", "Cl4 H4"),
        ("Fe2+ .5", "Mn .5", "", "disordered: site 1 (Fe2+) has occupancy 0.5, not 1"),
        (
            "Na1+ 0.5", "Na1+ 0.5", "_chemical_formula_sum 'Na2 Cl'\n",
            "missing atoms: the sites make Na4 Cl4, _chemical_formula_sum says Na2 Cl (rows, "
            "hydrogens or symmetry lost?)",
        ),
    ],
)  # fmt: skip
def test_entries_of_one_element_at_a_site(
    first: str, second: str, head: str, expected: str
) -> None:
    assert outcome(mixed(first, second, head)) == expected


def diamond(coordinate: str, head: str) -> str:
    """Carbon at one position of F d -3 m, whose origin choice the symbol leaves open."""
    text = with_head("_symmetry_space_group_name_H-M 'F d -3 m'\n" + head)
    sites = text[: text.index("Na1")].replace("5.64", "3.567")
    return f"{sites}C1 C {coordinate} {coordinate} {coordinate}\n"


FORMULA = "_chemical_formula_sum C\n"


@pytest.mark.parametrize(
    ("coordinate", "head", "expected"),
    [
        # 8a of choice 1 and 16c of choice 2; then 16c of choice 1 and 8a of choice 2.
        ("0", "_cell_formula_units_Z 8\n" + FORMULA, "C8"),
        ("0.125", "_cell_formula_units_Z 8\n" + FORMULA, "C8"),
        ("0", "_cell_formula_units_Z 12\n" + FORMULA, "ambiguous space group"),
        ("0", "_cell_formula_units_Z 8\n_chemical_formula_sum Si\n", "ambiguous space group"),
        ("0", "_cell_formula_units_Z 8\n", "ambiguous space group"),
        ("0", FORMULA, "ambiguous space group"),
        # In either choice it is on 32e.
        ("0.2", "_cell_formula_units_Z 32\n" + FORMULA, "ambiguous space group"),
    ],
)
def test_an_origin_choice_that_z_and_formula_settle(
    coordinate: str, head: str, expected: str
) -> None:
    assert outcome(diamond(coordinate, head)).split(":")[0] == expected


def test_symbols_that_mean_different_open_settings_are_refused() -> None:
    text = with_head(
        "_symmetry_space_group_name_H-M 'P b a n'\n_space_group_name_H-M_full 'P n c b'\n"
    )
    assert outcome(text) == (
        "conflicting symmetry: symbol P b a n and symbol P n c b are different settings"
    )


def test_a_dos_end_of_file_and_a_unicode_minus(tmp_path: Path) -> None:
    text = with_head(NUMBER).replace("Cl .5", "Cl \N{MINUS SIGN}.5")
    (tmp_path / "a.cif").write_bytes(text.encode() + b"\x1a")
    (item,) = read_structure_file(tmp_path / "a.cif")
    assert isinstance(item, RawCrystal) and len(item.species) == 8
    assert outcome(text) == FULL
