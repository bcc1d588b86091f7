"""Label cells: read as numbers, as missing, or reported."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from phase2hpc.data.readers.header_units import same_unit, split_unit
from phase2hpc.data.readers.label_report import LabelReport, describe_place
from phase2hpc.data.readers.labels import (
    Labels,
    decimal_comma_columns,
    is_missing,
    label_value,
    labels_in,
    renamed,
)
from phase2hpc.errors import InputError

NUMBERS = {
    "1.5": 1.5, " 2 ": 2.0, "-3": -3.0, "+.5": 0.5, "5.": 5.0, "1e-3": 1e-3, "1.0D0": 1.0,
    "2d-1": 0.2, "\u22120.5": -0.5,
}  # fmt: skip
TEXTS = (
    "metal", "<0.1", ">5", "~1", "0.25 eV", "1,5", "1,500", "1.2(3)", "1.5*", "50%", "1_000",
    "0x1F", "inf", "-Infinity", "1.5.2", "1-2", "1 000", "\u0661\u0662", "\uff11.5", "1/2",
    "#VALUE!", "#DIV/0!", "\u20131.5", "1e", "e5", "1e999",
)  # fmt: skip
MISSING = (
    "", " ", "N/A", "na", "#N/A", "nan", "NaN", "-", "--", "None", "NULL", "?", ".", "<NA>",
    "\u2014", None, float("nan"), np.float32("nan"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_numbers(text: str, value: float) -> None:
    assert label_value(text) == value and not is_missing(text)
    assert labels_in({"gap": text}) == {"gap": value}


@pytest.mark.parametrize("text", [*TEXTS, [1], {"a": 1}, float("inf"), 10**400])
def test_cells_that_are_not_numbers_are_reported(text: Any) -> None:
    labels = labels_in({"gap": text, "other": 1})
    assert labels == {"other": 1.0}
    assert [(cell.name, cell.kind) for cell in labels.cells] == [("gap", "text")]
    assert label_value(text) is None


@pytest.mark.parametrize("marker", MISSING)
def test_missing_markers(marker: Any) -> None:
    labels = labels_in({"gap": marker})
    assert labels == {} and labels.cells == () and labels.missing == ("gap",)


@pytest.mark.parametrize(
    ("cell", "value"), [(True, 1), ("FALSE", 0), ("true", 1), (np.bool_(False), 0)]
)
def test_booleans_become_0_and_1_and_are_reported(cell: Any, value: float) -> None:
    labels = labels_in({"metal": cell})
    assert labels == {"metal": value} and labels.cells[0].kind == "boolean"
    assert label_value(cell) is None


@pytest.mark.parametrize(
    ("cells", "is_decimal"),
    [
        (["0,5", "1,25", "3"], True),
        (["-0,500", "1,500"], True),
        (["1,500", "2,250"], False),  # grouped, or not: nobody knows
        (["0,5", "1.5"], False),
        (["0,5", "<0,1", "N/A"], True),
        (["1.5", "2"], False),
        (["\u22120,5"], True),
    ],
)
def test_a_column_of_decimal_commas(cells: list[str], is_decimal: bool) -> None:
    rows = [{"gap": cell} for cell in cells]
    assert decimal_comma_columns(rows) == ({"gap"} if is_decimal else set())
    found = [labels_in(row, decimal_comma=decimal_comma_columns(rows)) for row in rows]
    if is_decimal:
        first = cells[0].replace(",", ".").replace("\u2212", "-")
        assert found[0] == {"gap": float(first)} and found[0].cells[0].kind == "comma"


@pytest.mark.parametrize(
    ("header", "name", "unit"),
    [
        ("Eg (eV)", "Eg", "eV"), ("E_f [eV/atom]", "E_f", "eV/atom"), ("K(GPa)", "K", "GPa"),
        ("rho (g cm-3)", "rho", "g cm-3"), ("rho (g/cm^3)", "rho", "g/cm^3"),
        ("m (\u03bcB/f.u.)", "m", "\u03bcB/f.u."), ("T (K)", "T", "K"),
        ("k (W m\u207b\u00b9 K\u207b\u00b9)",
         "k", "W m\u207b\u00b9 K\u207b\u00b9"),
        ("gap (PBE)", "gap (PBE)", ""), ("d(110)", "d(110)", ""), ("E_g(mBJ)", "E_g(mBJ)", ""),
        ("gap", "gap", ""), ("()", "()", ""), ("eta (-)", "eta", ""),
    ],
)  # fmt: skip
def test_units_in_headers(header: str, name: str, unit: str) -> None:
    assert split_unit(header) == (name, unit)


def test_a_unit_of_one_of_the_nine_properties() -> None:
    assert same_unit("eV per atom", "eV/atom") and not same_unit("meV", "eV")
    assert labels_in({"optb88vdw_bandgap (eV)": 1.5}) == {"band_gap": 1.5}
    wrong = labels_in({"band_gap (meV)": 1500})
    assert wrong == {} and wrong.cells[0].kind == "unit"
    report = LabelReport()
    report.add_record("a", "t.csv:2", wrong)
    (line,) = report.lines()
    assert line.startswith("band_gap: 1 cell of column 'band_gap (meV)' not taken: ")


def test_two_columns_of_one_name_are_not_mixed() -> None:
    labels = labels_in({"Eg (eV)": 1.0, "Eg (meV)": 1000.0})
    assert labels == {"Eg": 1.0} and labels.units == {"Eg": "eV"}
    assert labels.cells == (("Eg", "duplicate", "Eg (meV)"),)
    assert labels_in({"band_gap": 1, "optb88vdw_bandgap": 1.0}).cells == ()


def test_the_report_counts_by_column_and_names_the_first() -> None:
    cells = ["1.5", "metal", "N/A", "0.25 eV", "2", "<0.1", "3", "4", "1.2(3)", "5"]
    report, halves = LabelReport(), [LabelReport(), LabelReport()]
    for line, cell in enumerate(cells, start=2):
        labels = labels_in({"gap (eV)": cell}, place=f"folder/t.csv:{line}")
        report.add_record(f"c{line}", "x.cif", labels)
        copy = pickle.loads(pickle.dumps(labels))
        halves[line > 6].add_record(f"c{line}", "x.cif", copy)
    expected = "gap: 4 of 10 cells are not a number, first 'metal' in line 3 of t.csv"
    assert report.lines() == [expected]
    halves[0].add(LabelReport.from_json(halves[1].to_json()))
    assert halves[0].lines() == [expected] and halves[0].to_json() == report.to_json()
    assert report.units == {"gap": "eV"} and report.not_numbers == {"gap": 4}
    rows = list(report.rows())
    assert rows[0] == ("c3", "label: gap is 'metal', not a number", "folder/t.csv:3")
    assert len(rows) == 5 and rows[-1] == ("", f"label: {expected}", "folder/t.csv")


def test_of_a_column_without_numbers_the_report_has_one_row() -> None:
    report = LabelReport()
    for line in range(100):
        report.add_record("a", f"t.jsonl:{line + 1}", labels_in({"formula": "NaCl"}))
    assert len(list(report.rows())) == 1
    assert report.lines()[0].startswith("formula: 100 of 100 cells are not a number")
    assert (
        describe_place("a/b.json#3") == "record 3 of b.json" and describe_place("b.csv") == "b.csv"
    )


def test_one_column_in_two_units_is_refused() -> None:
    report = LabelReport()
    report.add_record("a", "a.csv:1", labels_in({"Eg (eV)": 1}))
    with pytest.raises(InputError, match="column 'Eg' is in eV and in meV"):
        report.add_record("b", "b.csv:1", labels_in({"Eg (meV)": 1}))


def test_renamed() -> None:
    labels = labels_in({"gap (eV)": "1", "bad": "x", "gone": ""})
    new = renamed(labels, {"gap": "mp_gap", "bad": "worse", "gone": "left"})
    assert new == {"mp_gap": 1.0} and new.units == {"mp_gap": "eV"} and new.missing == ("left",)
    assert new.cells == (("worse", "text", "x"),)
    assert new.renamed == {("", "gap"), ("", "bad"), ("", "gone")}
    assert not renamed(labels, {"other": "x"}).renamed
    taken = renamed(Labels(a=1.0, b=2.0), {"b": "a"})
    assert taken == {"a": 1.0} and taken.cells[0].kind == "duplicate"
    assert not math.isnan(taken["a"])
