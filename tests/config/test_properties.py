"""The nine properties against the table of the design, and what a request for some resolves to."""

import pytest

from phase2hpc.config.properties import (
    COLUMN_SUFFIXES,
    GROUPS,
    OTHER_COLUMNS,
    PROPERTIES,
    ColumnSettings,
    canonical_name,
    check_columns,
    default_settings,
    parse_columns,
    parse_renames,
    resolve,
    resolve_default,
    unit,
)
from phase2hpc.errors import InputError
from phase2hpc.inference.prediction_table import columns

TABLE = """
formation_energy  formation_energy_peratom   eV/atom  core4 priority7 all9
band_gap          optb88vdw_bandgap          eV       core4 priority7 all9
bulk_modulus      bulk_modulus_kv            GPa      core4 priority7 all9
shear_modulus     shear_modulus_gv           GPa      core4 priority7 all9
ehull             ehull                      eV/atom  priority7 all9
band_gap_mbj      mbj_bandgap                eV       priority7 all9
spillage          spillage                   -        priority7 all9
dielectric        dfpt_piezo_max_dielectric  -        secondary2 all9
piezoelectric     dfpt_piezo_max_dij         pC/N     secondary2 all9
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def test_the_table():
    assert [[p.name, p.jarvis_field, p.unit or "-", *p.groups] for p in PROPERTIES.values()] == ROWS
    assert list(PROPERTIES) == [p.name for p in PROPERTIES.values()]
    assert len({p.symbol for p in PROPERTIES.values()}) == 9


@pytest.mark.parametrize(("group", "size"), [("core4", 4), ("priority7", 7), ("secondary2", 2)])
def test_groups(group, size):
    assert GROUPS[group] == tuple(row[0] for row in ROWS if group in row)
    assert len(GROUPS[group]) == size
    assert resolve(group, []) == list(GROUPS[group])


def test_every_group_has_its_name_in_a_row_and_all9_is_all():
    assert set(GROUPS) == {name for row in ROWS for name in row[3:]}
    assert GROUPS["all9"] == tuple(PROPERTIES)


def test_a_jarvis_field_is_our_name():
    for name, field, *_ in ROWS:
        assert canonical_name(field) == name
        assert canonical_name(name) == name
        assert resolve(field, []) == [name]
    assert canonical_name("ehull_leaderboard") == "ehull_leaderboard"


def test_units():
    assert unit("bulk_modulus") == "GPa"
    assert unit("spillage") == ""
    assert unit("a_users_own") == ""


def test_resolve_orders_by_the_table_with_a_users_own_columns_last():
    assert resolve("zeta, spillage,alpha,band_gap", ["alpha", "zeta"]) == [
        "band_gap",
        "spillage",
        "zeta",
        "alpha",
    ]


def test_resolve_counts_a_property_once():
    assert resolve("band_gap,core4,optb88vdw_bandgap,core4,", []) == list(GROUPS["core4"])
    assert resolve("own,own", ["own"]) == ["own"]


def test_resolve_of_an_unknown_name_says_what_there_is():
    with pytest.raises(InputError) as caught:
        resolve("band_gap,bandgap", ["own"])
    message = str(caught.value)
    assert "'bandgap'" in message and "band_gap" in message and "own" in message
    assert "priority7" in message and "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("empty", ["", " , ,"])
def test_resolve_of_nothing(empty):
    with pytest.raises(InputError, match="--properties is empty"):
        resolve(empty, ["own"])


def test_bounds_are_below_every_physical_value():
    bounded = {p.name: p.lower_bound for p in PROPERTIES.values() if p.lower_bound is not None}
    assert bounded["band_gap"] == bounded["band_gap_mbj"] == bounded["ehull"] == 0
    assert bounded["dielectric"] == 1
    # Moduli of unstable cells and formation energies can be negative.
    assert not bounded.keys() & {"formation_energy", "bulk_modulus", "shear_modulus"}
    assert {p.name for p in PROPERTIES.values() if p.scale == "asinh"} == set(GROUPS["secondary2"])


def test_settings_of_columns():
    given = parse_columns(["gap:unit=eV, min=0,scale=asinh", "a:b:scale=log", "spillage:min=-1"])
    assert given["gap"] == ColumnSettings(unit="eV", lower_bound=0.0, scale="asinh")
    assert given["a:b"] == ColumnSettings(scale="log")
    whole = given["spillage"].over(default_settings("spillage"))
    assert whole == ColumnSettings(unit="", lower_bound=-1.0, scale="linear")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gap", "write it as NAME:unit="),
        ("gap:colour=red", "write it as NAME:unit="),
        ("gap:unit=eV,colour=red", "'colour=red' is not unit=, min= or scale="),
        ("gap:min=low", "'low' is not a finite number"),
        ("gap:min=nan", "'nan' is not a finite number"),
        ("gap:scale=sqrt", "'sqrt' is not one of linear, log, asinh, auto"),
        ("gap:min=0,min=1", "'min=1' is not"),
        ("band_gap:unit=meV", "its unit is eV, not meV"),
    ],
)
def test_wrong_settings_of_columns_are_one_line(text, message):
    with pytest.raises(InputError) as caught:
        parse_columns([text])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_renames():
    given = parse_renames(["gap_pbe=mp_gap", "b.jsonl:optb88vdw_bandgap=gap_b"])
    assert given == {("", "gap_pbe"): "mp_gap", ("b.jsonl", "band_gap"): "gap_b"}
    for wrong in ("gap", "=x", "x="):
        with pytest.raises(InputError, match="write it as OLD=NEW"):
            parse_renames([wrong])
    with pytest.raises(InputError, match="two different new names"):
        parse_renames(["a=b", "a=c"])


def test_properties_by_default():
    assert resolve_default("core4", list(PROPERTIES)) == (list(GROUPS["core4"]), "")
    names, line = resolve_default("core4", ["band_gap", "mine"])
    assert names == ["band_gap"] and "without formation_energy, bulk_modulus" in line
    assert resolve_default("band_gap, mine", ["mine", "band_gap"]) == (["band_gap", "mine"], "")
    names, line = resolve_default("core4", ["mine", "spillage"])
    assert names == ["spillage", "mine"] and "all columns of the store" in line
    with pytest.raises(InputError, match="no labels, so there is nothing to train"):
        resolve_default("core4", [])


def test_auxiliary_columns_are_none_of_the_properties_by_default() -> None:
    names, line = resolve_default("core4", ["band_gap", "bulk_modulus", "mine"], ["bulk_modulus"])
    assert names == ["band_gap"]
    assert line.endswith("shear_modulus: no labels; bulk_modulus: auxiliary)")
    names, line = resolve_default("core4", ["mine", "other"], ["other"])
    assert names == ["mine"] and "all other columns" in line
    with pytest.raises(InputError, match="nothing is left to score"):
        resolve_default("core4", ["mine"], ["mine"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("gap", "gap_error"), "'gap_error': tables .* a column 'gap_error' for 'gap'"),
        (("gap_low", "gap"), "'gap': .* a column 'gap_low' for 'gap_low'"),
        (("atoms",), "a column 'atoms' for the table itself"),
    ],
)
def test_two_columns_of_one_name_are_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_columns(names)
    check_columns((*PROPERTIES, "gap_err", "mp_gap"))


def test_columns_of_predictions_are_those_that_are_checked() -> None:
    assert set(columns(["gap"])) <= {*OTHER_COLUMNS, *(f"gap{s}" for s in COLUMN_SUFFIXES)}
