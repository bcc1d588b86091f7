"""Readers: every format of the design gives the crystals and labels that went in."""

import csv
import gzip
import json
import logging
import os
import sys
import types
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from phase2hpc.config.properties import PROPERTIES
from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.json_stream import JsonStream
from phase2hpc.data.readers.labels import ehull_warning, label_value
from phase2hpc.data.readers.registry import describe, read, source_hash
from phase2hpc.data.validation import validate
from phase2hpc.errors import InputError

SAMPLE = ROOT / "data" / "jarvis_dft3d_15k.jsonl.gz"
EXAMPLES = ROOT / "data" / "examples"
COUNT = 12


@pytest.fixture(scope="module")
def records():
    with gzip.open(SAMPLE, "rt") as handle:
        return [json.loads(line) for line in islice(handle, COUNT)]


@pytest.fixture(scope="module")
def crystals():
    return [validate(item) for item in islice(read(SAMPLE), COUNT)]


@pytest.fixture(scope="module")
def structures(records):
    from pymatgen.core import Structure

    return [Structure(r["lattice"], r["species"], r["frac_coords"]) for r in records]


def assert_same_crystals(source, crystals, labels=None):
    """The source gives these crystals in order, up to the choice of axes, with these labels."""
    items = list(read(source))
    assert len(items) == len(crystals)
    for item, expected in zip(items, crystals, strict=True):
        assert isinstance(item, RawCrystal), item.reason
        found = validate(item)
        assert found.id == expected.id
        assert sorted(found.numbers) == sorted(expected.numbers)
        metric, wanted = (c.lattice @ c.lattice.T for c in (found, expected))
        assert np.allclose(np.linalg.det(metric), np.linalg.det(wanted), rtol=1e-4)
        wanted_labels = expected.labels if labels is None else labels(expected)
        assert dict(found.labels) == pytest.approx(dict(wanted_labels))
    return items


def jarvis(record) -> dict:
    fields = {"bulk_modulus_kv": "na", "max_efg": 3.5, "formula": "X", "nat": 2}
    lattice, frac = record["lattice"], np.array(record["frac_coords"])
    return {
        "jid": record["id"],
        **(fields | record["properties"]),
        "atoms": {
            "lattice_mat": lattice,
            "coords": (frac @ np.array(lattice)).tolist(),
            "elements": [f"{symbol} " for symbol in record["species"]],
            "cartesian": True,
        },
    }


def nine(crystal):
    return {name: value for name, value in crystal.labels.items() if name != "ehull_leaderboard"}


# ---- JSON --------------------------------------------------------------------------------


def test_json_lines(tmp_path, records, crystals):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    items = assert_same_crystals(path, crystals)
    assert items[0].split == records[0]["split"]
    assert (
        items[0].labels["formation_energy"] == records[0]["properties"]["formation_energy_peratom"]
    )
    assert items[0].input == f"{path}:1"


def test_bad_json_lines_are_named(tmp_path, records):
    good = records[0]
    lines = [
        json.dumps(good),
        "{cut",
        "[1, 2]",
        json.dumps({"id": "b"}),
        json.dumps({k: v for k, v in good.items() if k != "species"}),
        json.dumps(good | {"species": "VSe2"}),
        json.dumps(good | {"properties": {"a": "na", "b": None, "c": "1.5", "d": True, "e": "x"}}),
        "",
        json.dumps({"id": "j", "atoms": {"lattice_mat": 1, "coords": 2, "cartesian": True}}),
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    items = list(read(path))
    assert [isinstance(item, RawCrystal) for item in items] == [True, *[False] * 5, True, False]
    assert "line 2" in items[1].reason and items[1].id == "line 2"
    assert "not a JSON object" in items[2].reason
    assert items[3].reason.startswith("no structure")
    assert "no 'species'" in items[4].reason
    assert dict(items[6].labels) == {"c": 1.5, "d": 1.0}
    assert [tuple(cell) for cell in items[6].labels.cells] == [
        ("d", "boolean", "True"),
        ("e", "text", "x"),
    ]


def test_jarvis_json_and_zip(tmp_path, records, crystals):
    text = json.dumps([jarvis(r) for r in records])
    (tmp_path / "d.json").write_text(text)
    with zipfile.ZipFile(tmp_path / "d.json.zip", "w") as archive:
        archive.writestr("jdft_3d.json", text)
    assert_same_crystals(tmp_path / "d.json", crystals, nine)
    items = assert_same_crystals(tmp_path / "d.json.zip", crystals, nine)
    for item, record in zip(items, records, strict=True):
        shift = np.array(item.frac_coords) - np.array(record["frac_coords"])
        assert np.abs(shift - np.rint(shift)).max() < 1e-9


@pytest.mark.parametrize("order", [("index", "columns", "data"), ("data", "columns", "index")])
def test_matbench_data_frame(tmp_path, structures, crystals, order):
    frame = {
        "index": [c.id for c in crystals],
        "columns": ["structure", "e_form", "gap pbe", "note"],
        "data": [[s.as_dict(), c.labels["formation_energy"], None, "text"]
                 for s, c in zip(structures, crystals, strict=True)],
    }  # fmt: skip
    path = tmp_path / "matbench.json.gz"
    with gzip.open(path, "wt") as handle:
        json.dump({key: frame[key] for key in order}, handle)
    assert_same_crystals(path, crystals, lambda c: {"e_form": c.labels["formation_energy"]})


def test_disorder_in_a_data_frame_is_not_lost(tmp_path):
    from pymatgen.core import Lattice, Structure

    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    path = tmp_path / "m.json"
    frame = {"index": [7], "columns": ["structure"], "data": [[mixed.as_dict()]]}
    path.write_text(json.dumps(frame))
    (item,) = read(path)
    assert item.id == "7" and item.occupancies == [0.5, 0.5]


def test_json_is_streamed_in_small_pieces(tmp_path):
    values = [{"a": [1, 2, {"b": "x" * 50}]}, 12345, -1.5e-3, "]", [], None] * 7
    path = tmp_path / "v.json"
    path.write_text(json.dumps(values, indent=1))
    for chunk in (1, 2, 7, 64, 10_000):
        with path.open() as handle:
            assert list(JsonStream(handle, chunk).array()) == values


# ---- files and folders ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, structures, crystals):
    for number, (structure, crystal) in enumerate(zip(structures, crystals, strict=True)):
        if number % 2:
            structure.to(filename=str(tmp_path / f"{crystal.id}.cif"))
        else:
            structure.to(filename=str(tmp_path / f"{crystal.id}.vasp"), fmt="poscar")
    return tmp_path


def write_table(path, rows):
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)


def test_id_prop_without_header(folder, crystals):
    write_table(folder / "id_prop.csv", [[c.id, c.labels["band_gap"]] for c in crystals])
    assert_same_crystals(folder, crystals, lambda c: {"target": c.labels["band_gap"]})


def test_id_prop_of_several_columns_without_header(folder, crystals):
    write_table(folder / "id_prop.csv", [[f"{c.id}", "", 2] for c in crystals])
    assert_same_crystals(folder, crystals, lambda c: {"target_2": 2.0})


def test_id_prop_with_header(folder, crystals):
    rows = [[c.id, c.labels["band_gap"], "na", "val"] for c in crystals]
    write_table(folder / "id_prop.csv", [["id", "optb88vdw_bandgap", "mine", "split"], *rows])
    items = assert_same_crystals(folder, crystals, lambda c: {"band_gap": c.labels["band_gap"]})
    assert {item.split for item in items} == {"val"}


def test_id_prop_rows_that_fail(folder, crystals):
    two = (EXAMPLES / "RuO2-rutile.cif").read_text()
    (folder / "two.cif").write_text(two + two.replace("data_RuO2", "data_other"))
    (folder / "broken.cif").write_text("data_a\n")
    name = f"{crystals[0].id}.vasp"
    rows = [["absent", 1], ["two", 1], ["broken", 1], [name, 1], [crystals[1].id, 1, 2, 3]]
    write_table(folder / "id_prop.csv", [["id", "x"], *rows])
    *items, last = list(read(folder))[: len(rows) + 1]
    assert isinstance(last, UnreadableRecord) and last.reason.startswith("no row: id_prop.csv")
    assert [item.id for item in items] == [row[0] for row in rows]
    reasons = [item.reason if isinstance(item, UnreadableRecord) else "" for item in items]
    expected = ["no file", "several structures", "no cell", "", "bad row"]
    assert [reason.split(":")[0] for reason in reasons] == expected


def test_plain_folder_is_sorted_and_ids_unique(folder, crystals):
    (folder / "Si.cif").write_text("")
    (folder / "Si.vasp").write_text("")
    (folder / ".hidden.cif").write_text("")
    (folder / "notes.txt").write_text("")
    (folder / "sub.cif").mkdir()
    (folder / "id_prop.csv").write_text("")
    items = list(read(folder, id_prop=False))
    ids = [item.id for item in items]
    names = [item.input for item in items]
    assert names == sorted(names) and len(ids) == len(set(ids)) == len(crystals) + 3
    assert {"Si.cif", "Si.vasp", "sub", crystals[0].id} <= set(ids)
    with pytest.raises(InputError, match="id_prop.csv: it is empty"):
        list(read(folder))


def test_single_files(folder, crystals, tmp_path):
    for crystal in crystals[:4]:
        (path,) = folder.glob(f"{crystal.id}.*")
        assert_same_crystals(path, [crystal], lambda c: {})
    odd = tmp_path / "download.txt"
    odd.write_bytes((EXAMPLES / "C-diamond.cif").read_bytes())
    (item,) = read(odd)
    assert item.id == "download.txt" and set(item.species) == {"C"}


POSCAR = "salt\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty file"),
        ("hello\n", "at least 8"),
        (POSCAR.replace("Cs Cl\n", "") + "\n", "VASP 4"),
        (POSCAR.replace("1.0", "0"), "scale factor"),
        (POSCAR.replace("1.0", "one"), "line 2"),
        (POSCAR.replace("0 4 0", "0 4"), "line 4 must hold a lattice vector"),
        (POSCAR.replace("0 4 0", "0 nan 0"), "line 4"),
        (POSCAR.replace("1 1\n", "1\n"), "line 7"),
        (POSCAR.replace("1 1\n", "1 1 1\n"), "more counts"),
        (POSCAR.replace("Direct", "0 0 0"), "line 8 must say Direct or Cartesian"),
        (POSCAR.replace(".5 .5 .5\n", ""), "truncated POSCAR: 2 atoms"),
        (POSCAR.replace(".5 .5 .5", ".5 .5"), "line 10"),
        ("\x00\xff" * 50, "not a POSCAR"),
    ],
)
def test_bad_poscars(tmp_path, text, expected):
    path = tmp_path / "POSCAR"
    path.write_text(text, encoding="latin-1")
    (item,) = read(path)
    assert isinstance(item, UnreadableRecord) and expected in item.reason and item.id == "POSCAR"


def test_poscar_forms(tmp_path):
    scaled = POSCAR.replace("1.0", "-128").replace("Cs Cl", "Cs_sv Cl/4a7f")
    scaled = scaled.replace("Direct", "Selective dynamics\nCartesian").replace(
        ".5 .5 .5", "2 2 2 F F F"
    )
    (tmp_path / "a.vasp").write_text(scaled)
    (item,) = read(tmp_path / "a.vasp")
    crystal = validate(item)
    assert crystal.numbers.tolist() == [55, 17]
    assert np.linalg.det(crystal.lattice) == pytest.approx(128)
    assert np.allclose(crystal.frac_coords[1], 0.5)


@pytest.mark.parametrize("direct", [True, False])
def test_poscar_agrees_with_pymatgen(tmp_path, structures, direct):
    from pymatgen.io.vasp import Poscar

    for structure in structures:
        text = Poscar(structure).get_str(direct=direct, significant_figures=12)
        (tmp_path / "POSCAR").write_text(text)
        (item,) = read(tmp_path / "POSCAR")
        shift = item.frac_coords - structure.frac_coords
        assert np.abs(shift - np.rint(shift)).max() < 1e-9
        assert np.allclose(item.lattice, structure.lattice.matrix, atol=1e-9)
        assert item.species == [site.specie.symbol for site in structure]


# ---- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["cif", "anything"])
def test_csv_with_a_column_of_cifs(tmp_path, structures, crystals, column):
    rows = [[i, c.id, c.labels["band_gap"], "text", s.to(fmt="cif"), "test"]
            for i, (s, c) in enumerate(zip(structures, crystals, strict=True))]  # fmt: skip
    path = tmp_path / "a.csv"
    header = ["", "material_id", "band_gap", "formula", column, "split"]
    write_table(path, [header, *rows, [9, "cut", 1.0]])
    items = list(read(path))
    assert isinstance(items.pop(), UnreadableRecord)
    assert [item.split for item in items] == ["test"] * COUNT
    write_table(path, [header, *rows])
    assert_same_crystals(path, crystals, lambda c: {"band_gap": c.labels["band_gap"]})


def test_extended_xyz_and_ase_db(tmp_path, structures, crystals):
    from ase.db import connect
    from ase.io import write
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = [AseAtomsAdaptor.get_atoms(s, msonable=False) for s in structures]
    with connect(tmp_path / "a.db") as database:
        for frame, crystal in zip(frames, crystals, strict=True):
            gap = crystal.labels["band_gap"]
            frame.info.clear()
            frame.info.update(id=crystal.id, gap=gap, note="text")
            database.write(frame, material_id=crystal.id, gap=gap)
    write(tmp_path / "a.extxyz", frames, format="extxyz")
    for name in ("a.extxyz", "a.db"):
        assert_same_crystals(tmp_path / name, crystals, lambda c: {"gap": c.labels["band_gap"]})


def test_bad_extended_xyz(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text('1\nno cell here\nH 0 0 0\n2\nLattice="9 0 0 0 9 0 0 0 9"\nH 0 0 0\nCl 1\n')
    first, second = read(path)
    assert first.reason.startswith("no cell") and first.id == "a#0"
    assert second.reason.startswith("bad frame")


# ---- sources as a whole ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", "no structure in it"),
        ("a.jsonl.gz", gzip.compress(b'{"id": 1}\n' * 999, mtime=0)[:-9], "damaged or cut short"),
        ("a.jsonl.gz", b"no gzip", "damaged or cut short"),
        ("a.json", b'[{"jid": "a"}, {"jid', "not valid JSON"),
        ("a.json", b'{"a": 1}', "no structure found in this JSON object"),
        ("a.json", b'{"index": [0], "columns": ["composition"], "data": [["Fe"]]}', "'structure'"),
        ("a.json", b"12", "neither a JSON array nor"),
        ("a.json.zip", b"no zip", "damaged or cut short"),
        ("a.csv", b"id,x\n1,2\n", "no column of CIF text"),
        ("a.db", b"no database", "not a readable ASE database"),
        ("a.pdf", b"%PDF", "it is a PDF document"),
    ],
)
def test_bad_sources_are_one_line(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        list(read(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_path_and_empty_folder_fail_at_once(tmp_path):
    with pytest.raises(InputError, match="no such file or folder; a source is JSON lines"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no CIF or POSCAR file"):
        read(tmp_path)


def test_jarvis_by_name_without_jarvis_tools(monkeypatch):
    monkeypatch.setitem(sys.modules, "jarvis", None)
    with pytest.raises(
        InputError, match=r"fetch https://\S+ .* save it as jdft_3d-12-12-2022.json.zip"
    ):
        list(read("jarvis:dft_3d"))


@pytest.fixture
def figshare(monkeypatch, records):
    """A stand-in for jarvis-tools: the real one downloads 40 MB."""
    module = types.ModuleType("jarvis.db.figshare")
    module.get_db_info = lambda: {"dft_3d": [], "dft_3d_2022": []}
    module.data = lambda name: print("progress", name) or [jarvis(r) for r in records]
    package = types.ModuleType("jarvis.db")
    package.figshare = module
    monkeypatch.setitem(sys.modules, "jarvis", types.ModuleType("jarvis"))
    monkeypatch.setitem(sys.modules, "jarvis.db", package)
    monkeypatch.setitem(sys.modules, "jarvis.db.figshare", module)
    return module


def test_jarvis_by_name(figshare, crystals, capsys):
    assert_same_crystals("jarvis:dft_3d", crystals, nine)
    printed = capsys.readouterr()
    assert printed.out == "" and "progress dft_3d_2022" in printed.err


def test_jarvis_by_name_that_fails(figshare):
    with pytest.raises(InputError, match="no data set 'dft_9d'"):
        list(read("jarvis:dft_9d"))

    def no_network(name):
        raise ConnectionError("no route")

    figshare.data = no_network
    with pytest.raises(InputError, match="download failed .ConnectionError.; fetch"):
        list(read("jarvis:dft_3d"))


def test_the_wrong_ehull_is_told(tmp_path, records, caplog):
    path = tmp_path / "a.json"
    wrong = [jarvis(records[0]) | {"jid": f"a{i}", "ehull": 1.6} for i in range(30)]
    path.write_text(json.dumps(wrong))
    with caplog.at_level(logging.WARNING):
        list(read(path))
    assert "not the energy above hull" in caplog.text
    assert ehull_warning([0.05] * 100) is None
    assert ehull_warning([5.0] * 3) is None  # too few to judge


def test_label_values():
    for missing in ("na", "", "NaN", "inf", None, float("nan"), True, [1], "text", "1,5", 10**400):
        assert label_value(missing) is None
    for number in ("1.5", " 1.5 ", 1.5, np.float32(1.5)):
        assert label_value(number) == 1.5


def test_hash_follows_the_content(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        for path in EXAMPLES.glob("*.cif"):
            (folder / path.name).write_bytes(path.read_bytes())
    assert source_hash(first) == source_hash(second)
    before = source_hash(first)
    (first / "preds.csv").write_text("not a part of it")
    assert source_hash(first) == before
    (first / "id_prop.csv").write_text("a,1\n")
    assert source_hash(first) != before
    (second / "SnSe2-layered.cif").rename(second / "other.cif")
    assert source_hash(second) != before
    copy = tmp_path / "copy.jsonl.gz"
    copy.write_bytes(SAMPLE.read_bytes())
    assert source_hash(copy) == source_hash(SAMPLE) and len(source_hash(SAMPLE)) == 64
    assert source_hash("jarvis:dft_3d") != source_hash("jarvis:dft_2d")
    assert describe(SAMPLE) == SAMPLE.name and describe("jarvis:dft_3d") == "jarvis:dft_3d"
    with pytest.raises(InputError, match="no such file or folder; a source is JSON lines"):
        source_hash(tmp_path / "none")


def test_what_is_a_label(tmp_path, records):
    lattice = {key: records[0][key] for key in ("lattice", "species", "frac_coords")}
    rows = [
        {"id": "a", **lattice, "properties": {"mine": 1, "ehull": 2.0}, "beside": 3},
        {"id": "b", **lattice, "mine": "1.5", "mp_id": 7, "note": "text", "bulk_modulus_kv": 4},
        {**jarvis(records[0]), "jid": "c", "extra": 5, "ehull": 0.5, "spillage": "na"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours, flat, nine_only = (dict(item.labels) for item in read(path))
    assert ours == {"mine": 1.0, "ehull": 2.0}
    assert flat == {"mine": 1.5, "bulk_modulus": 4.0}
    assert nine_only["ehull"] == 0.5 and set(nine_only) <= set(PROPERTIES)


def test_names_that_are_no_text(tmp_path, records):
    good, bad_id, bad_label, nul = (dict(record) for record in records[:4])
    bad_id["id"] = "x\ud800"
    bad_label["properties"] = {"y\udfff": 1.0}
    nul["properties"] = {"y\0": 1.0}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad_id, bad_label, nul)))
    items = list(read(path))
    assert isinstance(items[0], RawCrystal)
    assert all(isinstance(item, UnreadableRecord) for item in items[1:])
    assert [item.id for item in items[1:]] == ["x\\ud800", bad_label["id"], nul["id"]]
    assert items[1].reason == "bad id: it is not valid Unicode"
    assert items[1].input == f"{path}:2" and r"\udfff" in items[2].reason
    folder = tmp_path / "cifs"
    folder.mkdir()
    data = next(EXAMPLES.glob("*.cif")).read_bytes()
    Path(os.fsdecode(os.fsencode(folder) + b"/Si\xff.cif")).write_bytes(data)
    (item,) = read(folder)
    assert isinstance(item, UnreadableRecord) and item.id == r"Si\udcff"
