"""One CIF for each class of file that users have: the right crystal, or the right reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import vesin
from cif_texts import element, read

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.validation import validate

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
