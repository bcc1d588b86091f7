"""Responses and entries of OPTIMADE."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from json_sources import CESIUM, assert_both, resource, written

from phase2hpc.data.crystal import UnreadableRecord
from phase2hpc.data.readers.registry import read
from phase2hpc.data.validation import validate


@pytest.mark.parametrize("whole", [True, False])
def test_a_response_and_its_entries(
    tmp_path: Path, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [resource(), resource(CESIUM) | {"id": "y"}]
    content = {"data": entries, "links": {"next": None}, "meta": {"more_data_available": False}}
    with caplog.at_level(logging.WARNING):
        items = list(read(written(tmp_path / "a.json", content if whole else entries)))
    assert_both(items, ["x", "y"], ())
    assert [dict(item.labels) for item in items] == [{"_mp_gap": 5.0}] * 2
    assert not caplog.records
    (item,) = read(written(tmp_path / "a.json", {"data": resource(), "meta": {}}))
    assert item.id == "x"


@pytest.mark.parametrize(
    "rest",
    [{"links": {"next": "https://x/?page=2"}},
     {"meta": {"more_data_available": True, "data_available": 99}}],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_a_page_of_several_is_said(
    tmp_path: Path, rest: dict[str, Any], first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"data": [resource()]}
    with caplog.at_level(logging.WARNING):
        list(read(written(tmp_path / "a.json", rest | data if first else data | rest)))
    (record,) = caplog.records
    assert "fetch the others too" in record.getMessage()
    assert ("of 99 entries" in record.getMessage()) == ("meta" in rest)


def species(**changes: Any) -> list[dict[str, Any]]:
    names = ("Cl", "Na")
    both = [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in names]
    return [both[0], both[1] | changes]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"species": species(chemical_symbols=["Na", "vacancy"], concentration=[0.5, 0.5])},
         "disordered: its species 'Na' has vacancies"),
        ({"species": species(chemical_symbols=["vacancy"])}, "has vacancies"),
        ({"species": species(attached=["H"], nattached=[1])}, "disordered"),
        ({"structure_features": ["implicit_atoms"]}, "implicit_atoms"),
        ({"structure_features": ["assemblies"]}, "disordered"),
        ({"dimension_types": [1, 1, 0]}, "not periodic: not along c"),
        ({"dimension_types": [0, 0, 0]}, "not periodic: a molecule"),
        ({"lattice_vectors": None}, "no structure: it has no lattice_vectors"),
        ({"species_at_sites": ["Na"]}, "1 species_at_sites, 8 positions"),
        ({"species": [{"name": "Na"}]}, "bad record"),
    ],
)  # fmt: skip
def test_entries_that_are_no_whole_crystal(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    (item,) = read(written(tmp_path / "a.json", [resource(**changes)]))
    assert isinstance(item, UnreadableRecord) and expected in item.reason


def test_mixed_species_are_several_partial_sites(tmp_path: Path) -> None:
    mixed = species(chemical_symbols=["Na", "K"], concentration=[0.5, 0.5])
    (item,) = read(written(tmp_path / "a.json", [resource(species=mixed)]))
    assert item.occupancies == [0.5, 0.5] * 4 + [1.0] * 4
    (item,) = read(
        written(
            tmp_path / "b.json",
            [resource(species=species(chemical_symbols=["Na", "Na"], concentration=[0.5, 0.5]))],
        )
    )
    assert validate(item).numbers.tolist() == [11] * 4 + [17] * 4
    (other,) = read(written(tmp_path / "a.json", [resource() | {"type": "references"}]))
    assert "of type 'references'" in other.reason
