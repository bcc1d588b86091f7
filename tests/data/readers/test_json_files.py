"""JSON sources: every form that pymatgen, monty and data sets write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from json_sources import BOTH, CESIUM, DICTS, SALT, assert_both, resource, written
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from phase2hpc.data.convert import Rejection, graphs_of
from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.readers.registry import read
from phase2hpc.errors import InputError

CASES = Path(__file__).parent / "cases"
ROWS = [
    {"id": i, "structure": d, "gap": g} for i, d, g in zip("xy", DICTS, (5.0, 8.3), strict=True)
]


FORMS: dict[str, tuple[str, Any, list[str] | None, tuple[float, ...]]] = {
    "records": ("json", ROWS, ["x", "y"], (5.0, 8.3)),
    "JSON lines": ("jsonl", "\n".join(map(json.dumps, ROWS)), ["x", "y"], (5.0, 8.3)),
    "JSON lines by another name": ("json", "\n".join(map(json.dumps, ROWS)), None, (5.0, 8.3)),
    "an array by the name of lines": ("jsonl", json.dumps(ROWS, indent=1), ["x", "y"], (5.0, 8.3)),
    "no name that says it": ("txt", ROWS, ["x", "y"], (5.0, 8.3)),
    "records by id": (
        "json", {k: {**row, "id": None} for k, row in zip("pq", ROWS, strict=True)}, ["p", "q"],
        (5.0, 8.3)),
    "structures": ("json", DICTS, ["record 0", "record 1"], ()),
    "structures as lines": ("jsonl", "\n".join(map(json.dumps, DICTS)), ["line 1", "line 2"], ()),
    "structures by id": ("json", dict(zip("pq", DICTS, strict=True)), ["p", "q"], ()),
    "structures as JSON texts": ("json", [s.to_json() for s in BOTH], None, ()),
    "entries": ("json", {"entries": ROWS, "meta": 1}, ["x", "y"], (5.0, 8.3)),
    "entries behind others": ("json", {"meta": {"a": 1}, "data": ROWS}, ["x", "y"], (5.0, 8.3)),
    "entries by id": ("json", {"structures": dict(zip("pq", DICTS, strict=True))}, ["p", "q"], ()),
    "CIF texts": (
        "json", [{"id": i, "cif": s.to(fmt="cif"), "gap": g}
                 for i, s, g in zip("xy", BOTH, (5.0, 8.3), strict=True)], ["x", "y"], (5.0, 8.3)),
    "properties of structures": (
        "json", [{**d, "properties": {"gap": g}} for d, g in zip(DICTS, (5.0, 8.3), strict=True)],
        None, (5.0, 8.3)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str) -> None:
    suffix, content, ids, gaps = FORMS[form]
    items = list(read(written(tmp_path / f"a.{suffix}", content)))
    assert_both(items, ids, gaps)


def test_one_structure_or_one_record_has_the_name_of_the_file(tmp_path: Path) -> None:
    for content in (DICTS[0], json.dumps(DICTS[0], indent=2), {"structure": DICTS[0], "gap": 1}):
        (item,) = read(written(tmp_path / "salt.json", content))
        assert isinstance(item, RawCrystal) and item.id == "salt" and len(item.species) == 8


def test_computed_structure_entries_and_their_energy(tmp_path: Path) -> None:
    entries = [
        ComputedStructureEntry(
            s, -27.1, correction=-0.5, entry_id=f"e{i}", data={"gap": 5.0, "source": "x"}
        )
        for i, s in enumerate(BOTH)
    ]
    dicts = [entry.as_dict() for entry in entries]
    for content in (dicts, {"entries": dicts}, dict(zip("pq", dicts, strict=True))):
        items = list(read(written(tmp_path / "a.json", content)))
        assert_both(items, ["e0", "e1"], (5.0, 5.0))
        assert [dict(item.labels) for item in items] == [
            {"gap": 5.0, "energy": pytest.approx(entry.energy)} for entry in entries
        ]
    (item,) = read(written(tmp_path / "one.json", dicts[0]))
    assert item.id == "e0"
    lines = "\n".join(map(json.dumps, dicts))
    assert_both(list(read(written(tmp_path / "a.jsonl", lines))), ["e0", "e1"], (5.0, 5.0))


# ---- documents without a crystal are named -------------------------------------------------------

MOLECULE = Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]]).as_dict()
ENTRY = ComputedEntry("NaCl", -3.0).as_dict()
ASE_DB = {"1": {"numbers": [1], "positions": [[0, 0, 0]]}, "ids": [1], "nextid": 2}
SLAB = Structure(
    Lattice(5 * np.eye(3), pbc=(True, True, False)), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).as_dict()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([MOLECULE], "not periodic: a molecule"), (MOLECULE, "not periodic: a molecule"),
        ([ENTRY], "no structure: a ComputedEntry has"), ([SLAB], "not periodic: not along c"),
        ([{"positions": [], "numbers": []}], "an ASE Atoms object"),
        ([{"@class": "Spin", "a": 1}], "it is a 'Spin'"),
        ([{"structure": str(SALT)}], "the structure is the text 'Full Formula (Na4 Cl"),
        ([{"structure": {"lattice": {"matrix": 1}}}], "the structure has no 'sites'"),
    ],
)  # fmt: skip
def test_records_without_a_crystal(tmp_path: Path, content: Any, expected: str) -> None:
    (item,) = read(written(tmp_path / "a.json", content))
    assert isinstance(item, UnreadableRecord) and expected in item.reason


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (ASE_DB, "an ASE database in JSON: copy it with 'ase db"),
        (ENTRY, "a 'ComputedEntry' and no structure"),
        ({"a": 1, "b": 2}, "no structure found in this JSON object (its keys: 'a', 'b')"),
        ({}, "(its keys: none)"), ({"entries": []}, "no structure in it"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ('{"entries": [{"a": 1}]} {', "something follows the object"),
        ('{"entries": [{"a": 1}], "b": ', "damaged or cut short"),
        (json.dumps({"p": DICTS[0]})[:-9], "damaged or cut short"),
    ],
)  # fmt: skip
def test_documents_without_a_crystal(tmp_path: Path, content: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read(written(tmp_path / "a.json", content)))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


# ---- mutations -----------------------------------------------------------------------------------


def _mutated(value: Any, rng: random.Random) -> Any:
    """The value with one part of it, anywhere, replaced or removed."""
    odd = (None, True, 0, -1e308, "", "x", [], {}, [[]], {"a": {}}, {"sites": 1, "lattice": 2})
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return rng.choice(odd)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    copy = dict(value) if isinstance(value, dict) else list(value)
    if rng.random() < 0.1:
        del copy[key]
    else:
        copy[key] = _mutated(copy[key], rng)
    return copy


def test_mutations_raise_nothing_but_one_line(tmp_path: Path) -> None:
    rng = random.Random(3)
    entry = ComputedStructureEntry(CESIUM, -1.0).as_dict()
    columns = {"structure": {"0": DICTS[1]}, "gap": {"0": 1}}
    split = {"columns": ["structure"], "index": [0], "data": [[DICTS[1]]]}
    forms: list[Any] = [
        {"entries": [entry]}, {"data": [resource(CESIUM)], "meta": {}}, [DICTS[1]], columns, split,
        {"p": {"structure": DICTS[1]}}, DICTS[1], {"data": [split], "schema": {}},
    ]  # fmt: skip
    read_well = 0
    for _ in range(600):
        path = written(tmp_path / "a.json", _mutated(rng.choice(forms), rng))
        try:
            items = list(read(path))
        except InputError as error:
            assert "\n" not in str(error)
            continue
        for item, result in zip(items, graphs_of(items, GraphSettings()), strict=True):
            read_well += not isinstance(result, Rejection)
            if isinstance(item, UnreadableRecord):
                assert item.reason.isprintable() and len(item.reason) < 250 and ": " in item.reason
    assert 50 < read_well < 550


# ---- the shared cases ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ids", "labels"),
    [
        ("cse_entries", ["mp-22862"], [{"energy": -27.1}]),
        ("dict_by_id_records", ["mp-1", "mp-2"], [{"band_gap": 5.0}, {"band_gap": 5.1}]),
        ("optimade_list", ["mp-1"], [{}]),
        ("pandas_columns", ["0", "1"], [{"y": 5.0}, {"y": 5.1}]),
        ("pmg_structure_list", ["record 0", "record 1"], [{}, {}]),
        ("pmg_structure_single", ["pmg_structure_single"], [{}]),
    ],
)
def test_cases(name: str, ids: list[str], labels: list[dict[str, float]]) -> None:
    items = list(read(CASES / f"{name}.json"))
    assert [item.id for item in items] == ids
    for item, expected in zip(items, labels, strict=True):
        assert isinstance(item, RawCrystal) and dict(item.labels) == expected
        assert list(item.species) == ["Na"] * 4 + ["Cl"] * 4
        assert np.allclose(item.lattice, 5.64 * np.eye(3))


@pytest.mark.parametrize(
    ("shared", "ordered"),
    [({"Fe2+": 0.5, "Fe3+": 0.5}, True), ({"Fe2+": 0.5, "Mn2+": 0.5}, False)],
    ids=["one element", "two elements"],
)
def test_a_site_of_mixed_valence_is_one_atom(
    tmp_path: Path, shared: dict[str, float], ordered: bool
) -> None:
    structure = Structure(Lattice.cubic(4.3), [shared, "O2-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (result,) = graphs_of(read(written(tmp_path / "a.json", structure.as_dict())), GraphSettings())
    if ordered:
        assert not isinstance(result, Rejection)
        assert result[0].numbers.tolist() == [26, 8]
    else:
        assert isinstance(result, Rejection) and result.kind == "disordered"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (True, 0.5), ("True", 0.5), ("true", 0.5), (False, 2.0), ("False", 2.0), ("false", 2.0),
        (None, 2.0), ("cartesian", None),
    ],
)  # fmt: skip
def test_cartesian_of_jarvis_as_text(tmp_path: Path, flag: Any, expected: float | None) -> None:
    atoms = {
        "lattice_mat": (4 * np.eye(3)).tolist(), "coords": [[2, 2, 2]], "elements": ["Po"],
        "cartesian": flag,
    }  # fmt: skip
    (item,) = read(written(tmp_path / "a.json", [{"jid": "j", "atoms": atoms}]))
    if expected is None:
        assert isinstance(item, UnreadableRecord)
        assert item.reason == "bad record: cartesian is 'cartesian', neither true nor false"
    else:
        assert isinstance(item, RawCrystal)
        assert np.allclose(item.frac_coords, expected)
