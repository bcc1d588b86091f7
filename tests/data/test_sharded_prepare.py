"""A preparation in shards: the store, the report and the summary of one process, whatever the
source, however many shards."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from paths import EXAMPLES, SAMPLE
from tiny import Tiny

from phase2hpc.data.convert import Converter
from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.prepare import PrepareSummary, prepare_store
from phase2hpc.data.readers.registry import read
from phase2hpc.data.record_partition import RecordPartition
from phase2hpc.data.sharded_prepare import BLOCK, merge_shards, write_shard
from phase2hpc.data.store.info import read_info
from phase2hpc.data.store.verify import verify_store
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.shard_folder import ShardFolder


def converter(**options: Any) -> Converter:
    return Converter(GraphSettings(cutoff=3.5), **options)


def by_shards(
    sources: list[Path], store: Path, shards: int, **options: Any
) -> tuple[PrepareSummary, ShardFolder]:
    folder = ShardFolder.beside(store, shards, {})
    for shard in range(shards):
        write_shard(folder, shard, sources, converter(**options), workers=1)
    return merge_shards(folder, sources, store, converter(**options)), folder


def assert_same_result(summary: PrepareSummary, alone: PrepareSummary) -> None:
    """The store by its hash and what it says of itself, the report by its bytes."""
    assert summary.content_hash == alone.content_hash
    made, expected = read_info(summary.store), read_info(alone.store)
    assert (made.preparation, made.source) == (expected.preparation, expected.source)
    counts = [{**info.summary, "seconds": 0} for info in (made, expected)]
    assert counts[0] == counts[1]
    assert summary.rejects_report.read_bytes() == alone.rejects_report.read_bytes()
    assert verify_store(summary.store).ok


def rows(count: int) -> list[dict[str, Any]]:
    """Small crystals of the sample in its order."""
    with gzip.open(SAMPLE, "rt") as lines:
        read = (json.loads(line) for line in lines)
        return list(itertools.islice((r for r in read if len(r["species"]) < 9), count))


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# ---- the same result ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sources: lines that are none, duplicates near and far, of good and of bad ones, in one
    source and across, and labels that only a duplicate has."""
    folder = tmp_path_factory.mktemp("hostile")
    records = rows(8 * BLOCK)
    records[3]["species"][0] = "Xx"
    records[BLOCK + 1]["id"] = records[3]["id"]
    records[5]["id"] = records[4]["id"]
    records[3 * BLOCK]["id"] = records[4]["id"]
    records[3 * BLOCK]["properties"]["of_a_duplicate"] = 1.0
    records[4 * BLOCK]["id"] = records[7]["id"]
    records[4 * BLOCK]["species"][0] = "Xx"
    records[5 * BLOCK]["properties"]["rare"] = 2.5
    records[6 * BLOCK]["split"] = "sometimes"
    records[-1]["id"] = "line 9"
    records[-2]["id"] = records[0]["id"]
    lines = [json.dumps(record) for record in records]
    lines[8] = "{cut"
    lines[BLOCK] = ""
    first, second = folder / "a.jsonl", folder / "b.jsonl"
    first.write_text("\n".join(lines[: 3 * BLOCK + 5]) + "\n")
    second.write_text("\n".join(lines[3 * BLOCK + 5 :]) + "\n")
    return [first, second]


@pytest.fixture(scope="module")
def of_one_process(hostile: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PrepareSummary:
    store = tmp_path_factory.mktemp("alone") / "s.h5"
    return prepare_store(hostile, store, GraphSettings(cutoff=3.5), workers=1)


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 20])
def test_equal_to_one_process(
    shards: int, hostile: list[Path], of_one_process: PrepareSummary, tmp_path: Path
) -> None:
    """20 shards are more than there are blocks: some are empty."""
    summary, _ = by_shards(hostile, tmp_path / "s.h5", shards)
    assert of_one_process.rejected["duplicate id"] == 6
    assert "rare" in of_one_process.labels and "of_a_duplicate" not in of_one_process.labels
    assert_same_result(summary, of_one_process)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.h5", "s.h5.rejects.csv"]
    again = prepare_store(hostile, tmp_path / "s.h5", GraphSettings(cutoff=3.5))
    assert again.already_there


@pytest.mark.parametrize("rule", ["random", "formula", "file"])
def test_every_split_rule(rule: str, tmp_path: Path) -> None:
    records = rows(4 * BLOCK)
    source = write(tmp_path / "in.jsonl", records)
    if rule == "file":
        rule = str(tmp_path / "splits.csv")
        three = itertools.cycle(("train", "val", "test"))
        lines = [f"{r['id']},{split}\n" for r, split in zip(records, three, strict=False)]
        Path(rule).write_text("".join(lines))
    options = {"split": rule, "seed": 5, "float64": True}
    alone = prepare_store(
        [source], tmp_path / "a.h5", GraphSettings(cutoff=3.5), workers=1, **options
    )
    assert_same_result(by_shards([source], tmp_path / "s.h5", 3, **options)[0], alone)


def test_a_split_may_be_empty_in_a_shard_but_not_in_the_store(tmp_path: Path) -> None:
    """Train, val and test one after the other: each shard has one of them."""
    records = rows(3 * BLOCK)
    for place, record in enumerate(records):
        record["split"] = ("train", "val", "test")[place // BLOCK]
    source = write(tmp_path / "in.jsonl", records)
    summary, _ = by_shards([source], tmp_path / "s.h5", 3)
    assert summary.splits == dict.fromkeys(("train", "val", "test"), BLOCK)
    only_train = write(tmp_path / "train.jsonl", records[:BLOCK])
    messages = []
    for attempt in (
        lambda: prepare_store(
            [only_train], tmp_path / "t.h5", GraphSettings(cutoff=3.5), workers=1
        ),
        lambda: by_shards([only_train], tmp_path / "t.h5", 3),
    ):
        with pytest.raises(InputError, match="split val and test would be empty") as error:
            attempt()
        messages.append(str(error.value))
    assert messages[0] == messages[1] and not (tmp_path / "t.h5").exists()


def test_a_shard_in_which_nothing_can_be_used(tmp_path: Path) -> None:
    records = rows(8 * BLOCK)
    for place, record in enumerate(records):
        if (place // BLOCK) % 4 == 2:
            record["species"] = ["Qq"] * len(record["species"])
    source = write(tmp_path / "in.jsonl", records)
    alone = prepare_store([source], tmp_path / "a.h5", GraphSettings(cutoff=3.5), workers=1)
    assert alone.rejected == {"unknown element": 2 * BLOCK}
    assert_same_result(by_shards([source], tmp_path / "s.h5", 4)[0], alone)
    bad = write(tmp_path / "bad.jsonl", records[2 * BLOCK : 3 * BLOCK])
    with pytest.raises(InputError, match=f"none of {BLOCK} crystals is valid"):
        by_shards([bad], tmp_path / "t.h5", 2)
    with (tmp_path / "t.h5.rejects.csv").open() as report:
        assert len(list(csv.DictReader(report))) == BLOCK


# ---- every kind of source ----------------------------------------------------------------------


def structures(records: list[dict[str, Any]]) -> list[Any]:
    from pymatgen.core import Structure

    return [Structure(r["lattice"], r["species"], r["frac_coords"]) for r in records]


def as_lines(folder: Path, records: list[dict[str, Any]]) -> Path:
    path = folder / "in.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def as_array(folder: Path, records: list[dict[str, Any]]) -> Path:
    (folder / "in.json").write_text(json.dumps([*records[:30], 5, *records[30:]]))
    return folder / "in.json"


def as_frame(folder: Path, records: list[dict[str, Any]]) -> Path:
    data = [[s.as_dict(), 1.0] for s in structures(records)]
    frame = {"index": list(range(len(data))), "columns": ["structure", "gap"], "data": data}
    (folder / "in.json").write_text(json.dumps(frame))
    return folder / "in.json"


def as_csv(folder: Path, records: list[dict[str, Any]]) -> Path:
    with (folder / "in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "cif", "gap"])
        for record, structure in zip(records, structures(records), strict=True):
            writer.writerow([record["id"], structure.to(fmt="cif"), 1.5])
    return folder / "in.csv"


def as_folder(folder: Path, records: list[dict[str, Any]]) -> Path:
    """One file with two structures, one with none."""
    path = folder / "in"
    path.mkdir()
    texts = [structure.to(fmt="cif") for structure in structures(records)]
    for record, text in zip(records, texts, strict=True):
        (path / f"{record['id']}.cif").write_text(text)
    (path / f"{records[5]['id']}.cif").write_text("".join(texts[5:7]))
    (path / f"{records[40]['id']}.cif").write_text("")
    return path


def as_labelled_folder(folder: Path, records: list[dict[str, Any]]) -> Path:
    path = as_folder(folder, records)
    lines = [f"{record['id']},{place}\n" for place, record in enumerate(records)]
    (path / "id_prop.csv").write_text("".join([*lines[:20], "gone,1\n", *lines[20:]]))
    return path


def as_extxyz(folder: Path, records: list[dict[str, Any]]) -> Path:
    from ase import Atoms
    from ase.io import write as write_atoms

    atoms = [
        Atoms(r["species"], cell=r["lattice"], scaled_positions=r["frac_coords"], pbc=True)
        for r in records
    ]
    write_atoms(folder / "in.extxyz", atoms)
    with (folder / "in.extxyz").open("a") as file:
        file.write("and no count\n")
    return folder / "in.extxyz"


def as_database(folder: Path, records: list[dict[str, Any]]) -> Path:
    from ase import Atoms
    from ase.db import connect

    with connect(folder / "in.db") as database:
        for r in records:
            cell, places = r["lattice"], r["frac_coords"]
            database.write(Atoms(r["species"], cell=cell, scaled_positions=places, pbc=True))
    return folder / "in.db"


def as_blocks(folder: Path, records: list[dict[str, Any]]) -> Path:
    """One CIF with many blocks."""
    path = folder / "in.cif"
    texts = [structure.to(fmt="cif") for structure in structures(records)]
    named = [text.replace("data_", f"data_{n}_", 1) for n, text in enumerate(texts)]
    path.write_text("".join(named))
    return path


KINDS: list[Callable[[Path, list[dict[str, Any]]], Path]] = [
    as_lines, as_array, as_frame, as_csv, as_folder, as_labelled_folder, as_extxyz, as_database,
    as_blocks,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source(kind: Callable[..., Path], tmp_path: Path) -> None:
    """Between two others, so that the count goes on through it."""
    records = rows(2 * BLOCK + 9)
    source = kind(tmp_path, records)
    before = write(tmp_path / "before.jsonl", rows(2 * BLOCK + 40)[2 * BLOCK + 9 :])
    sources = [before, source, EXAMPLES / "C-diamond.cif"]
    options: dict[str, Any] = {"split": "random"}
    alone = prepare_store(
        sources, tmp_path / "a.h5", GraphSettings(cutoff=3.5), workers=1, **options
    )
    assert alone.read >= 2 * BLOCK + 9 + 31 + 1
    assert_same_result(by_shards(sources, tmp_path / "s.h5", 3, **options)[0], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_others_units_are_stepped_past(kind: Callable[..., Path], tmp_path: Path) -> None:
    """Together the readers have every item, in their blocks, and each counts all."""
    source = kind(tmp_path, rows(2 * BLOCK + 9))
    found: list[tuple[int, str, bool]] = []
    counts = set()
    for shard in range(3):
        partition = RecordPartition(shard, 3, 8)
        for item in read(source, partition=partition):
            assert partition.current % 3 == shard
            found.append((partition.current, item.input, isinstance(item, RawCrystal)))
        counts.add(partition.count)
    everything = [(item.input, isinstance(item, RawCrystal)) for item in read(source)]
    assert [row[1:] for row in sorted(found, key=lambda row: row[0])] == everything
    assert len(counts) == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jsonl", b"\n", "no structure in it"),
        ("cut.json", b'[{"id": "a"}, {"id": "b"}, {"id"', "damaged or cut short.*record 2"),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"id": "a"}\n' * 400, mtime=0)[:-9],
            "damaged or cut short",
        ),
    ],
)
def test_a_damaged_source_is_told_by_every_shard(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    folder = ShardFolder.beside(tmp_path / "s.h5", 3, {})
    for shard in range(3):
        with pytest.raises(InputError, match=reason):
            write_shard(folder, shard, [tmp_path / name], converter(), workers=1)
    assert folder.missing() == [0, 1, 2]


# ---- shards that are missing, damaged, of something else ----------------------------------------


@pytest.fixture
def made(tiny: Tiny, tmp_path: Path) -> tuple[ShardFolder, list[Path], Path]:
    """Three shards, their sources, and the store that is to be made."""
    source = shutil.copy(tiny.source, tmp_path / "in.jsonl")
    folder = ShardFolder.beside(tmp_path / "s.h5", 3, {})
    for shard in range(3):
        write_shard(folder, shard, [source], converter(), workers=1)
    return folder, [source], tmp_path / "s.h5"


def test_a_missing_shard_is_named_and_made_alone(made: Any) -> None:
    folder, sources, store = made
    folder.part(1).unlink()
    kept = {shard: folder.part(shard).stat().st_mtime_ns for shard in (0, 2)}
    with pytest.raises(Phase2Error, match=r"1 of 3 shards are missing \(1\)"):
        merge_shards(folder, sources, store, converter())
    assert folder.missing() == [1] and not store.exists()
    for shard in range(3):
        write_shard(folder, shard, sources, converter(), workers=1)
    assert kept == {shard: folder.part(shard).stat().st_mtime_ns for shard in (0, 2)}
    summary = merge_shards(folder, sources, store, converter())
    assert summary.kept == 150 and not folder.path.parent.exists()


@pytest.mark.parametrize("what", ["store", "part", "other"])
def test_a_damaged_shard_is_told_and_made_anew(what: str, made: Any) -> None:
    folder, sources, store = made
    if what == "store":
        with h5py.File(folder.store(2)) as file:
            place = file["sender"].id.get_chunk_info(0).byte_offset + 9
        data = bytearray(folder.store(2).read_bytes())
        data[place] ^= 255
        folder.store(2).write_bytes(data)
    elif what == "part":
        lines = folder.part(2).read_text().splitlines(keepends=True)
        folder.part(2).write_text("".join(lines[:-1]))
    else:
        shutil.copy(folder.store(1), folder.store(2))
    with pytest.raises(Phase2Error, match="shard 2 was damaged and is removed"):
        merge_shards(folder, sources, store, converter())
    assert folder.missing() == [2] and not store.exists()
    write_shard(folder, 2, sources, converter(), workers=1)
    assert merge_shards(folder, sources, store, converter()).kept == 150


def test_a_source_that_changed_meanwhile(made: Any) -> None:
    folder, sources, store = made
    with sources[0].open("a") as file:
        file.write("\n")
    with pytest.raises(Phase2Error, match="the sources changed"):
        merge_shards(folder, sources, store, converter())
    assert not store.exists() and not folder.path.exists()


def test_merged_already(made: Any, tmp_path: Path) -> None:
    """The last job runs again, after a requeue, say."""
    folder, sources, store = made
    merge_shards(folder, sources, store, converter())
    before = store.stat().st_mtime_ns
    assert merge_shards(folder, sources, store, converter()).already_there
    assert store.stat().st_mtime_ns == before
