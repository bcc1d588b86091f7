"""Sources that someone made to do harm: one line for the file, or one rejected record with its
true reason while the rest goes on; nothing runs, hangs or fills the memory."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import Tiny

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.readers import json_stream, text_files
from phase2hpc.data.readers.registry import read
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError

DEEP = 200_000
HUGE = "1" * 10_000


def record(**changes: Any) -> dict[str, Any]:
    sound = {
        "id": "x", "lattice": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
        "species": ["Cu"], "frac_coords": [[0, 0, 0]], "properties": {"gap": 1.0},
    }  # fmt: skip
    return {**sound, **changes}


def raw(**changes: Any) -> str:
    return json.dumps(record(**changes))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        list(read(path))
    message = str(refused.value)
    assert message.isprintable() and str(path) in message
    return message


# One line of many -> what it is rejected with.
RECORDS = {
    "deep": ("[" * DEEP, "nested too deeply"),
    "deep within": ('{"id": "x", "lattice": ' + "[" * DEEP + "]" * DEEP + "}", "nested too deeply"),
    "a huge integer": (raw().replace("4", HUGE, 1), "integer string conversion"),
    "a key twice": ('{"id": "x", "id": "y"}', "the key 'id' occurs twice"),
    "a key twice within": (raw().replace('{"gap"', '{"gap": 2, "gap"'), "'gap' occurs twice"),
    "no object": ("[1, 2]", "not a JSON object"),
    "an id of two lines": (raw(id="a\nb"), "control character U+000A"),
    "an id with a zero": (raw(id="a\0b"), "control character U+0000"),
    "half an id": (raw(id="a\ud800"), "is not valid Unicode"),
    "an endless id": (raw(id="x" * 5000), "has 5000 characters"),
    "a label of two lines": (raw(properties={"a\nb": 1}), "control character U+000A"),
    "a label that acts on a terminal": (raw(properties={"\x1b[2J": 1}), "U+001B"),
    "an endless label": (raw(properties={"x" * 5000: 1}), "has 5000 characters"),
    "species in a text": (raw(species="Cu"), "species is not a list"),
    "species that are numbers": (raw(species=[29]), "species is not a list"),
    "a lattice in words": (raw(lattice="cubic"), "not rows of three numbers"),
    "a lattice that is an object": (raw(lattice={"a": 1}), "not rows of three numbers"),
    "a lattice that is none": (raw(lattice=float("nan")), "not finite"),
    "an infinite coordinate": (raw(frac_coords=[[float("inf"), 0, 0]]), "not finite"),
    "a ragged lattice": (raw(lattice=[[1, 2], [3]]), "not rows of three numbers"),
    "coordinates for another": (raw(frac_coords=[[0, 0, 0]] * 2), "coordinates of shape"),
    "a split with a control": (raw(split="tr\x1bain"), r"unknown split 'tr\x1bain'"),
    "an endless split": (raw(split="s" * 5000), "unknown split 'ssss"),
    "atoms that are a text": ('{"id": "x", "atoms": "POSCAR"}', "bad record"),
    "a structure in a text": ('{"id": "x", "structure": "[1]"}', "bad record"),
    "a structure too deep": (
        json.dumps({"id": "x", "structure": "[" * DEEP}), "nested too deeply"),
    "a class to make": (
        '{"id": "x", "structure": {"@module": "os", "@class": "system", "sites": 3}}',
        "bad record"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_bad_record_is_rejected_and_the_rest_goes_on(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    line, reason = RECORDS[kind]
    path = tmp_path / f"s.{suffix}"
    text = "".join(f"{row}\n" for row in (raw(id="a"), line, raw(id="b")))
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    rejected = rejections(path)
    assert [row["id"] for row in rejected.kept] == ["a", "b"]
    (one,) = rejected.reasons
    assert reason in one and one.isprintable() and len(one) < 300


class rejections:
    """Ids of the records that graphs were made of, and the reasons against the others."""

    def __init__(self, path: Path) -> None:
        from phase2hpc.data.convert import Converter
        from phase2hpc.data.graph import GraphSettings

        converted = Converter(GraphSettings())(list(read(path)))
        self.kept = [{"id": name} for name in converted.graphs.ids()]
        self.reasons = [item.reason for item in converted.rejections]


def test_bytes_that_are_no_text_reject_their_line_only(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    bad = raw(id="Br\u00fcssel").encode().replace(b"\\u00fc", b"\xfc")
    path.write_bytes(raw(id="a").encode() + b"\n" + bad + b"\n" + raw(id="b").encode())
    first, second, third = read(path)
    assert isinstance(first, RawCrystal) and isinstance(third, RawCrystal)
    assert (
        isinstance(second, UnreadableRecord) and second.reason == "bad JSON: line 2, not in UTF-8"
    )
    table = tmp_path / "s.csv"
    cif = "data_x\n_cell_length_a 4"
    table.write_bytes(f'id,cif\na,"{cif}"\n'.encode() + b'\xfc,"' + cif.encode() + b'"\n')
    assert [item.id for item in read(table)] == ["a", "\u00fc"]


def test_values_that_are_no_numbers_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    labels = {"a": True, "b": [1], "c": None, "d": {"e": 1}, "f": "1.5", "g": "1e999", "h": "x"}
    text = raw(properties=labels).replace('"x"}', '"x", "i": NaN, "j": -Infinity, "k": 1e999}')
    path.write_text(text)
    (item,) = read(path)
    assert isinstance(item, RawCrystal) and item.labels == {"a": 1.0, "f": 1.5}


@pytest.mark.parametrize(("value", "name"), [
    (7, "7"), (True, "line 1"), (None, "line 1"), ([1], "line 1"), ({"a": 1}, "line 1"),
    (1.5, "line 1"), (" ", "line 1"), ("../../etc/passwd", "../../etc/passwd"), ("/a", "/a"),
])  # fmt: skip
def test_ids_of_any_type(tmp_path: Path, value: Any, name: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(raw(id=value))
    (item,) = read(path)
    assert isinstance(item, RawCrystal) and item.id == name


FILES: dict[str, tuple[str, bytes, str]] = {
    "UTF-16 cut": ("s.jsonl", raw().encode("utf-16")[:-1], "damaged or cut short"),
    "gzip cut": ("s.jsonl.gz", gzip.compress(raw().encode() * 99)[:-20], "damaged or cut short"),
    "bzip2 by another name": ("s.json.gz", bz2.compress(b"[]"), "no structure in it"),
    "an array too deep": ("s.json", b"[" * DEEP, "record 0 is not valid JSON (nested too deeply)"),
    "an array with a huge integer": (
        "s.json", f"[{raw()}, {HUGE}]".encode(), "record 1 is not valid JSON (Exceeds"),
    "an array cut": ("s.json", f"[{raw()}, {{".encode(), "not valid JSON"),
    "an array and more": ("s.json", f"[{raw()}] []".encode(), "something follows the array"),
    "columns that are a number": (
        "s.json", b'{"index": [0], "columns": 3, "data": [[1]]}', "'columns' are no array"),
    "an index that is an object": (
        "s.json", b'{"index": {"a": 1}, "columns": ["structure"], "data": [[1]]}',
        "'index' are no array"),
    "data that are a text": (
        "s.json", b'{"data": "x", "index": [0], "columns": ["structure"]}', "'data' are no array"),
    "a key that is none": ("s.json", b'{[1]: 2}', "is no key"),
    "columns twice": (
        "s.json", b'{"columns": ["structure"], "columns": ["x"], "data": []}', "occurs twice"),
    "a column twice": (
        "s.json", b'{"index": [], "columns": ["structure", "structure"], "data": []}', "one name"),
    "a table's column twice": ("s.csv", b"id,cif,gap,gap\na,data_,1,2\n", "2 columns are named"),
    "a table's column of two lines": ("s.csv", b'id,cif,"a\nb"\na,data_,1\n', "U+000A"),
    "a database without atoms": ("s.db", b"SQLite format 3\0" + b"\0" * 500, "not a readable ASE"),
    "a count that is none": ("s.extxyz", b"", "no structure in it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_file_is_one_line(tmp_path: Path, kind: str) -> None:
    name, content, reason = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    assert reason in refusal(path)


def test_a_key_twice_in_an_array_rejects_its_record_only(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    twice = raw(id="b").replace('{"gap"', '{"gap": 2, "gap"')
    path.write_text(f"[{raw(id='a')}, {twice}, {raw(id='c')}]")
    first, second, third = read(path)
    assert isinstance(first, RawCrystal) and isinstance(third, RawCrystal)
    assert isinstance(second, UnreadableRecord) and "'gap' occurs twice" in second.reason
    frame = {"index": ["a", "b"], "columns": ["structure"], "data": [[{"k": 1}], [{"k": 1}]]}
    text = json.dumps(frame).replace('{"k": 1}', '{"k": 1, "k": 2}', 1)
    path.write_text(text)
    reasons = [item.reason for item in read(path)]
    assert "'k' occurs twice" in reasons[0] and "'sites'" in reasons[1]


@pytest.mark.parametrize("name", ["s.jsonl.gz", "s.json.gz", "s.csv.gz", "s.extxyz.gz"])
def test_a_line_without_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from phase2hpc.data.readers import ase_formats as ase_sources
    from phase2hpc.data.readers import delimited as table_sources

    for module in (text_files, table_sources, ase_sources):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(json_stream.JsonStream.value, "__defaults__", (1 << 20,))
    path = tmp_path / name
    begin = {"s.json.gz": b'["', "s.extxyz.gz": b"1\n"}.get(name, b"")
    path.write_bytes(gzip.compress(begin + b"x" * (1 << 24)))
    assert "onger than 1048576 characters" in refusal(path)


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "s.json.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../../evil.json", f"[{raw()}]")
    before = set(tmp_path.parent.rglob("*"))
    assert [item.id for item in read(path)] == ["x"]
    assert set(tmp_path.parent.rglob("*")) == before
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("two.json", "[]")
    assert "expected one .json in the archive, or one file, found 2" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.json", f"[{raw()}]")
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    assert "one.json cannot be unpacked" in refusal(path) and "password" in refusal(path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("pipe.jsonl", "zero.csv"):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            read(tmp_path / name)


# ---- extended XYZ and ASE's databases ----------------------------------------------------------

FRAME = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 id={} gap=1.5\nCu 0 0 0\n'


@pytest.mark.parametrize(
    ("bad", "reason", "goes_on"),
    [
        ("999999999\nx\n", "cut short after", False),
        ("9" * 5000 + "\nx\n", "where its count of atoms should be", False),
        ("-3\nx\n", "where its count of atoms should be", False),
        (FRAME.replace("pos:R:3", "pos:R:300000000"), "claim more than 1000 columns", True),
        (FRAME.replace("pos:R:3", "pos:R:" + "9" * 5000), "claim more than 1000 columns", True),
        (FRAME.replace("Cu 0", "Cu x"), "bad frame: ", True),
        (FRAME.replace("4 0 0 0 4", "4 0 4"), "bad frame: ", True),
        (FRAME.replace("4 0 0 0 4 0 0 0 4", "nan " * 9), "bad ", True),
    ],
)
def test_a_bad_frame_is_rejected_and_the_rest_goes_on(
    tmp_path: Path, bad: str, reason: str, goes_on: bool
) -> None:
    path = tmp_path / "a@1.extxyz"
    path.write_text(FRAME.format("first") + bad.replace("{}", "bad") + FRAME.format("last"))
    items = list(read(path))
    assert isinstance(items[0], RawCrystal) and items[0].id == "first"
    assert dict(items[0].labels) == {"gap": 1.5}
    assert isinstance(items[1], UnreadableRecord) and reason in items[1].reason
    assert items[1].reason.isprintable() and len(items[1].reason) < 200
    assert [item.id for item in items[2:]] == (["last"] if goes_on else [])


def database(path: Path, *rows: dict[str, Any]) -> Path:
    from ase import Atoms
    from ase.db import connect

    path.unlink(missing_ok=True)
    with connect(path) as made:
        for row in rows:
            made.write(Atoms("Cu", cell=[4, 4, 4], pbc=True), **row)
    return path


def change(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as made:
        for statement in statements:
            made.execute(statement)
    made.close()


def test_a_bad_row_is_rejected_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = database(tmp_path / "a.db", {"gap": 1.0}, {"gap": 2.0}, {"gap": 3.0})
    for column, value in (
        ("cell", "x'00'"), ("cell", "NULL"), ("numbers", "x'010203'"), ("positions", "'text'"),
        ("key_value_pairs", f"'{'[' * DEEP}'"), ("key_value_pairs", "'[1]'"),
        ("key_value_pairs", "'{'"), ("pbc", "'x'"),
    ):  # fmt: skip
        change(path, f"UPDATE systems SET {column} = {value} WHERE id = 2")
        items = list(read(path))
        assert [type(item) for item in items] == [RawCrystal, UnreadableRecord, RawCrystal], column
        assert items[1].reason.isprintable()
        database(path, {"gap": 1.0}, {"gap": 2.0}, {"gap": 3.0})


def test_a_database_computes_nothing_and_is_only_read(tmp_path: Path) -> None:
    path = database(tmp_path / "a.db", {"gap": 1.0})
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT n AS id, "
    change(path, "ALTER TABLE systems RENAME TO s", "CREATE VIEW systems AS " + endless +
           "numbers, positions, cell, pbc, key_value_pairs FROM t, s")  # fmt: skip
    assert "no table 'systems'" in refusal(path)
    path = database(tmp_path / "b.db", {"gap": 1.0})
    change(path, "ALTER TABLE systems RENAME COLUMN cell TO c",
           "ALTER TABLE systems ADD COLUMN cell AS (zeroblob(999999999))")  # fmt: skip
    assert "no plain 'cell'" in refusal(path)
    change(path, "DROP TABLE systems")
    assert "no table 'systems'" in refusal(path)
    path = tmp_path / "empty.db"
    path.touch()
    assert "no table 'systems'" in refusal(path)
    assert path.stat().st_size == 0 and sorted(tmp_path.glob("empty*")) == [path]


# ---- names that look like paths -----------------------------------------------------------------


def test_names_of_a_source_never_become_paths(
    tmp_path: Path, tiny: Tiny, train_tiny: Callable[..., Any]
) -> None:
    """Ids, labels and the like that climb out of folders: nothing is written beside the run."""
    names = ("../../up", "/absolute", "..", "a/b", "%2e%2e", "~", "$HOME")
    source, out = tmp_path / "in" / "s.jsonl", tmp_path / "out"
    source.parent.mkdir()
    with source.open("w") as lines:
        for number, row in enumerate(tiny.records):
            labels = row["properties"] | dict.fromkeys(names, float(number))
            changed = {**row, "id": f"../../{number}", "properties": labels}
            lines.write(json.dumps(changed) + "\n")
    before = set(tmp_path.parent.rglob("*"))
    prepare_store([source], out / "s.h5", workers=1)
    store = Store.open(out / "s.h5")
    assert set(names) <= set(store.labels)
    run = train_tiny(out / "models", store=out / "s.h5", properties=",".join(names), epochs=1)
    made = set(tmp_path.parent.rglob("*")) - before
    assert all(path.is_relative_to(out) for path in made)
    inside = {path for path in made if path.is_relative_to(out / "models") and path.is_file()}
    assert inside and all(path.is_relative_to(run.path) for path in inside)
    metrics = json.loads(run.metrics_json.read_text())
    assert set(metrics["test"]) == set(names)
