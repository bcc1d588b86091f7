"""Tables of labels and of structures, in the encodings and delimiters that users have."""

from __future__ import annotations

import codecs
import gzip
import shutil
from pathlib import Path

import pytest
from paths import ROOT

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.delimited import open_table
from phase2hpc.data.readers.id_prop import tables_beside
from phase2hpc.data.readers.label_report import LabelReport
from phase2hpc.data.readers.registry import read, source_hash
from phase2hpc.errors import InputError

EXAMPLES = ROOT / "data" / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.cif"))[:3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        shutil.copy(EXAMPLES / f"{name}.cif", tmp_path)
    return tmp_path


def table(delimiter: str = ",", header: str = "id{d}gap\n", values: str = "1.5 2.5 3.5") -> str:
    rows = [
        f"{name}{delimiter}{value}\n" for name, value in zip(NAMES, values.split(), strict=True)
    ]
    return header.format(d=delimiter) + "".join(rows)


def labels_of(folder: Path, **options: Path) -> list[dict[str, float]]:
    items = list(read(folder, **options))
    assert all(isinstance(item, RawCrystal) for item in items)
    return [dict(item.labels) for item in items]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "   "])
@pytest.mark.parametrize("header", ["id{d}gap\n", ""])
def test_delimiters(folder: Path, delimiter: str, header: str) -> None:
    (folder / "id_prop.csv").write_text(table(delimiter, header))
    name = "gap" if header else "target"
    assert labels_of(folder) == [{name: 1.5}, {name: 2.5}, {name: 3.5}]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""), ("utf-8", codecs.BOM_UTF8), ("latin-1", b""), ("cp1252", b""),
        ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE), ("utf-16-le", b""),
        ("utf-16-be", b""), ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)  # fmt: skip
def test_encodings(
    folder: Path, encoding: str, mark: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "id_prop.csv").write_bytes(mark + table(header="id,d\u00e9but\n").encode(encoding))
    assert labels_of(folder) == [{"d\u00e9but": 1.5}, {"d\u00e9but": 2.5}, {"d\u00e9but": 3.5}]
    assert ("read as Latin-1" in caplog.text) == (encoding in ("latin-1", "cp1252"))


def test_decimal_commas_with_semicolons_and_without_a_header(folder: Path) -> None:
    (folder / "id_prop.csv").write_text(table(";", "", "0,5 1,25 3"))
    assert labels_of(folder) == [{"target": 0.5}, {"target": 1.25}, {"target": 3.0}]


def test_ids_with_and_without_suffix_and_in_another_column(folder: Path) -> None:
    first, second, third = NAMES
    text = f",file,gap (eV)\n0,{first}.cif,1\n1,{second},2\n2,./{third}.cif,3\n"
    (folder / "id_prop.csv").write_text(text)
    items = list(read(folder))
    assert [item.labels["gap"] for item in items] == [1.0, 2.0, 3.0]
    assert items[0].labels.units == {"gap": "eV"}


def test_rows_without_file_and_files_without_row(folder: Path) -> None:
    (folder / "id_prop.csv").write_text(f"id,gap\n{NAMES[0]},1\nabsent,x\n")
    items = list(read(folder))
    reasons = [item.reason for item in items if isinstance(item, UnreadableRecord)]
    assert [reason.partition(":")[0] for reason in reasons] == ["no file", "no row", "no row"]
    report = LabelReport()
    for item in items:
        report.add_record(item.id, item.input, item.labels)
    assert report.lines() == [
        "gap: 1 of 2 cells is not a number, first 'x' in line 3 of id_prop.csv"
    ]


def test_a_name_that_two_files_have_is_refused(folder: Path) -> None:
    shutil.copy(folder / f"{NAMES[0]}.cif", folder / f"{NAMES[0]}.mcif")
    (folder / "id_prop.csv").write_text(table())
    first = next(iter(read(folder)))
    assert isinstance(first, UnreadableRecord) and first.reason.startswith("two files: ")


def test_a_first_row_of_text_labels_is_no_header(folder: Path) -> None:
    (folder / "id_prop.csv").write_text(f"absent,metal\n{NAMES[0]},metal\n{NAMES[1]},1\n")
    items = list(read(folder))
    assert [item.id for item in items[:3]] == ["absent", *NAMES[:2]]


def test_another_table_by_labels_and_the_hint(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("tables") / "mine.txt"
    elsewhere.write_text(table("\t"))
    before = source_hash(folder, elsewhere)
    assert labels_of(folder, labels=elsewhere) == [{"gap": 1.5}, {"gap": 2.5}, {"gap": 3.5}]
    elsewhere.write_text(table("\t", values="1 2 3"))
    assert source_hash(folder, elsewhere) != before != source_hash(folder)
    assert tables_beside(folder) == []
    (folder / "notes.txt").write_text("nothing, of, interest\n")
    shutil.copy(elsewhere, folder / "mine.txt")
    assert tables_beside(folder) == [folder / "mine.txt"]


@pytest.mark.parametrize("column", ["path", "cif", "anything"])
def test_a_table_of_paths(folder: Path, column: str) -> None:
    rows = [f"{i};{name}.cif;{i},5\n" for i, name in enumerate(NAMES)]
    source = folder / "all.csv"
    source.write_text(f"id;{column};gap (eV)\n" + "".join(rows) + "9;absent.cif;1,5\n")
    before = source_hash(source)
    *items, last = read(source)
    assert [(item.id, dict(item.labels)) for item in items] == [
        (str(i), {"gap": i + 0.5}) for i in range(3)
    ]
    assert isinstance(last, UnreadableRecord) and last.reason.startswith("no file: 'absent.cif'")
    (folder / f"{NAMES[1]}.cif").write_text("")
    assert source_hash(source) != before


def test_a_table_of_texts_with_semicolons_packed(tmp_path: Path) -> None:
    cif = (EXAMPLES / f"{NAMES[0]}.cif").read_text().replace('"', "'")
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(f'material_id;cif;gap\na;"{cif}";0,5\nb;"{cif}";x\n'.encode()))
    first, second = read(path)
    assert (first.id, dict(first.labels), dict(second.labels)) == ("a", {"gap": 0.5}, {})
    assert second.labels.cells == (("gap", "text", "x"),)


def test_a_table_of_labels_alone_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,gap\na,1\n")
    with pytest.raises(InputError, match="give the folder, and this table by --labels"):
        list(read(path))
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(InputError, match="damaged, not in utf-16"), open_table(path) as rows:
        list(rows)
