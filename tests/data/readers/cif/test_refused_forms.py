"""CIFs whose crystal is not certain, and the reason that each is refused with."""

from __future__ import annotations

import pytest
from cif_texts import CELL, NUMBER, SITES, outcome, with_column, with_head, with_labels

INVERSION = "x,y,z\n-x,-y,-z\n"

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


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, expected = REFUSED[name]
    reason = outcome(text)
    assert expected in reason and ": " in reason and len(reason) < 250
