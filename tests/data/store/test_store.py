"""The graph store: round trip, what a hash depends on, damage, killed writers, merging."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from paths import SAMPLE
from stores import write_store

from phase2hpc.config.properties import ColumnSettings
from phase2hpc.data.convert import Rejection, graphs_of
from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.graph_arrays import FIELDS, GraphArrays, concatenate, pack
from phase2hpc.data.store import verify
from phase2hpc.data.store.info import info_lines, read_info
from phase2hpc.data.store.layout import StoreNotFound, content_hash
from phase2hpc.data.store.memory_budget import store_budget
from phase2hpc.data.store.merge import merge_stores
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.structure_checks import index_problems
from phase2hpc.data.store.verify import block_problems, verify_once, verify_store
from phase2hpc.data.store.writer import StoreWriter
from phase2hpc.errors import InputError, Phase2Error

SETTINGS = GraphSettings(cutoff=5.0)
ARRAYS = [name for name in FIELDS if name != "id_ptr"] + ["id_ptr", "labels/formation_energy"]


def sample_raws(count: int) -> list[RawCrystal]:
    raws = []
    with gzip.open(SAMPLE, "rt") as lines:
        for line in itertools.islice(lines, count):
            record = json.loads(line)
            labels = {
                {"formation_energy_peratom": "formation_energy"}.get(key, key): value
                for key, value in record["properties"].items()
            }
            geometry = record["lattice"], record["species"], record["frac_coords"]
            raws.append(
                RawCrystal(record["id"], "s", *geometry, labels=labels, split=record["split"])
            )
    return raws


def graphs(raws: list[RawCrystal], float64: bool = False) -> GraphArrays:
    results = list(graphs_of(raws, SETTINGS))
    return pack([r for r in results if not isinstance(r, Rejection)], float64=float64)


@pytest.fixture(scope="module")
def arrays() -> GraphArrays:
    lonely = RawCrystal("lonely Ø", "s", np.eye(3) * 9.5, ["Ar"], [[0, 0, 0]])
    return graphs([*sample_raws(40), lonely])


def assert_equal(a: GraphArrays, b: GraphArrays) -> None:
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y, err_msg=name)
    assert set(a.labels) == set(b.labels)
    for name, column in a.labels.items():
        np.testing.assert_array_equal(column, b.labels[name])


def test_round_trip_is_exact(arrays: GraphArrays, tmp_path: Path) -> None:
    digest = write_store(tmp_path / "s.h5", arrays, SETTINGS, source={"name": "x"})
    store = Store.open(tmp_path / "s.h5")
    assert store.arrays is not None
    assert_equal(store.arrays, arrays)
    assert store.content_hash == digest
    assert store.graph_settings == SETTINGS
    assert store.info.units["formation_energy"] == "eV/atom"
    assert store.info.source == {"name": "x"}
    assert store.ids(np.array([40])) == ["lonely Ø"]
    assert np.diff(arrays.edge_ptr)[40] == 0 and np.isnan(arrays.labels["formation_energy"][40])
    assert len(store.split_indices("train")) == int((arrays.split == 0).sum()) > 0
    with h5py.File(tmp_path / "s.h5") as file:
        assert all(file[name].fletcher32 for name in ARRAYS)
        assert file["frac_coords"].dtype == np.float32
        assert json.loads(file["split"].attrs["names"]) == ["train", "val", "test"]


def test_float64_keeps_every_digit(tmp_path: Path) -> None:
    raws = sample_raws(5)
    write_store(tmp_path / "s.h5", graphs(raws, float64=True), SETTINGS)
    store = Store.open(tmp_path / "s.h5")
    assert store.arrays is not None and store.info.float64
    frac = np.concatenate([np.array(raw.frac_coords) for raw in raws]) % 1.0
    assert store.arrays.frac_coords.dtype == np.float64
    np.testing.assert_array_equal(store.arrays.frac_coords, frac)


def test_blocks_read_from_disk_equal_memory(arrays: GraphArrays, tmp_path: Path) -> None:
    write_store(tmp_path / "s.h5", arrays, SETTINGS, chunk_rows=64)
    store = Store.open(tmp_path / "s.h5", budget=0)
    assert store.arrays is None
    assert_equal(store.read_block(7, 23), arrays.block(7, 23))
    blocks = list(store.blocks(max_bytes=3000))
    assert len(blocks) > 5
    assert_equal(concatenate(blocks), arrays)
    assert store.ids(np.array([40, 3])) == [arrays.id(40), arrays.id(3)]
    copy = pickle.loads(pickle.dumps(store))
    assert copy.arrays is None
    assert_equal(copy.read_block(0, 5), arrays.block(0, 5))


def test_hash_is_of_content_alone(arrays: GraphArrays, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    digests = {
        write_store(path, arrays, SETTINGS),
        write_store(path, arrays, SETTINGS, chunk_rows=16, compression=None),
        write_store(path, arrays, SETTINGS, source={"name": "elsewhere"}, compression=9),
    }
    with StoreWriter(path, graph_settings=SETTINGS, chunk_rows=32) as writer:
        for low in range(0, len(arrays), 7):
            writer.append(arrays.block(low, min(low + 7, len(arrays))))
        digests.add(writer.finish())
    assert_equal(Store.open(path).arrays, arrays)  # type: ignore[arg-type]
    assert len(digests) == 1
    others = {
        write_store(path, arrays, GraphSettings(cutoff=5.1)),
        write_store(path, arrays.block(0, 40), SETTINGS),
        write_store(path, graphs(sample_raws(40), float64=True), SETTINGS),
    }
    assert len(others | digests) == 4
    described = {"labels/x": {"dtype": "<f4", "shape": [1], "sha256": "0"}}
    by_unit = {
        content_hash(SETTINGS, {"x": ColumnSettings(unit=unit)}, described)
        for unit in ("eV", "GPa")
    }
    assert len(by_unit) == 2


def test_labels_that_come_late_or_never(arrays: GraphArrays, tmp_path: Path) -> None:
    bare = GraphArrays(**{name: getattr(arrays, name) for name in FIELDS}, labels={})
    write_store(tmp_path / "bare.h5", bare, SETTINGS)
    assert Store.open(tmp_path / "bare.h5").labels == {}
    assert verify_store(tmp_path / "bare.h5").ok
    with StoreWriter(tmp_path / "s.h5", graph_settings=SETTINGS, chunk_rows=16) as writer:
        writer.append(bare.block(0, 20))
        writer.append(arrays.block(20, 41))
        column = np.arange(41, dtype=np.float32)
        late = GraphArrays(
            **{n: getattr(arrays.block(0, 0), n) for n in FIELDS},
            labels={"a/b %": column[:0], ".": column[:0], "..": column[:0]},
        )
        writer.append(late)
        writer.finish()
    store = Store.open(tmp_path / "s.h5")
    expected = arrays.labels["formation_energy"].copy()
    expected[:20] = np.nan
    np.testing.assert_array_equal(store.labels["formation_energy"], expected)
    for name in ("a/b %", ".", ".."):
        assert np.isnan(store.labels[name]).all() and len(store.labels[name]) == 41
    assert verify_store(tmp_path / "s.h5").ok


@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_byte_is_found(arrays: GraphArrays, tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.h5"
    write_store(path, arrays, SETTINGS)
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(data)
    report = verify_store(path)
    assert not report.ok
    assert any(f"'{name}'" in problem for problem in report.problems)
    with pytest.raises(InputError, match=name):
        Store.open(path)


def test_sound_store_verifies(arrays: GraphArrays, tmp_path: Path) -> None:
    write_store(tmp_path / "s.h5", arrays, SETTINGS)
    report = verify_store(tmp_path / "s.h5")
    assert report.ok and report.arrays == 11 + len(arrays.labels)
    assert "ok" in report.lines()[0]


def test_changed_attributes_do_not_verify(arrays: GraphArrays, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    for name, value in (
        ("graph_settings", json.dumps(GraphSettings(cutoff=4.0).to_dict())),
        ("content_hash", "0" * 64),
    ):
        write_store(path, arrays, SETTINGS)
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
        assert "content hash" in verify_store(path).problems[0]


def test_impossible_graphs_do_not_verify(arrays: GraphArrays, tmp_path: Path) -> None:
    def broken(**changes: object) -> list[str]:
        fields = {name: getattr(arrays, name) for name in FIELDS}
        changed = GraphArrays(**{**fields, **changes}, labels=arrays.labels)
        return index_problems(changed) or block_problems(changed, SETTINGS.cutoff)

    sender = arrays.sender.copy()
    sender[5] = 999
    lattice = arrays.lattice.copy()
    lattice[3, 0] = np.nan
    assert broken() == []
    assert "sender" in broken(sender=sender)[0]
    assert "sorted" in broken(receiver=arrays.receiver[::-1])[-1]
    assert "lattice" in broken(lattice=lattice)[0]
    assert "split" in broken(split=np.full(len(arrays), 3, np.int8))[0]
    twice = concatenate([arrays, arrays.block(0, 1)])
    write_store(tmp_path / "s.h5", twice, SETTINGS)
    assert verify_store(tmp_path / "s.h5").problems == ["ids that occur twice"]


def test_truncated_files(arrays: GraphArrays, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_store(path, arrays, SETTINGS)
    whole = path.read_bytes()
    for size in (0, 3, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"s\.h5") as failure:
            Store.open(path)
        assert "\n" not in str(failure.value)
        if size < 8:  # without its signature it is no HDF5 file
            with pytest.raises(StoreNotFound):
                verify_store(path)
        else:
            assert not verify_store(path).ok


def _set(name: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "no store at"),
        (lambda path: path.write_text("hello"), "not an HDF5 file"),
        (lambda path: h5py.File(path, "w").close(), "not a phase2hpc graph store"),
        (_set("schema_version", 99), "update phase2hpc"),
        (_set("complete", False), "incomplete"),
    ],
)
def test_what_is_no_store(
    arrays: GraphArrays, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "s.h5"
    write_store(path, arrays, SETTINGS)
    change(path)
    with pytest.raises(InputError, match=message):
        read_info(path)
    if message == "incomplete":
        assert not verify_store(path).ok
        return
    with pytest.raises(StoreNotFound, match=message):
        verify_store(path)


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="is not a file"):
        verify_store(tmp_path)


def test_a_failed_writer_leaves_nothing(arrays: GraphArrays, tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        StoreWriter(tmp_path / "s.h5", graph_settings=SETTINGS) as writer,
    ):
        writer.append(arrays)
        raise KeyboardInterrupt
    with StoreWriter(tmp_path / "s.h5", graph_settings=SETTINGS) as writer:
        writer.append(arrays)  # never finished
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys, time
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.store.writer import StoreWriter
with StoreWriter(sys.argv[1], graph_settings=GraphSettings()) as writer:
    print("writing", flush=True)
    time.sleep(60)
"""


def test_debris_of_killed_writers_only_is_cleared(arrays: GraphArrays, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None and killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    (debris,) = tmp_path.iterdir()
    assert not path.exists()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as alive:
        assert alive.stdout is not None and alive.stdout.readline()
        (living,) = tmp_path.iterdir()
        assert living != debris
        write_store(path, arrays, SETTINGS)
        assert set(tmp_path.iterdir()) == {path, living}
        alive.send_signal(signal.SIGKILL)
    assert verify_store(path).ok


FULL_DISK = """
import pickle, resource, sys
from phase2hpc.data.graph import GraphSettings
from phase2hpc.data.store.writer import StoreWriter
from phase2hpc.errors import Phase2Error
arrays = pickle.load(sys.stdin.buffer)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with StoreWriter(sys.argv[1], graph_settings=GraphSettings(), chunk_rows=256) as writer:
        writer.append(arrays)
        writer.finish()
except Phase2Error as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 5_000, 30_000])
def test_no_room_is_one_line_and_leaves_nothing(
    arrays: GraphArrays, tmp_path: Path, room: int
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "s.h5"), str(room)],
        input=pickle.dumps(arrays),
        capture_output=True,
        timeout=60,
    )
    assert result.stdout.decode().startswith("cannot write the store"), result.stderr
    assert result.stdout.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(arrays: GraphArrays, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Phase2Error, match="cannot write"):
        write_store(tmp_path / "file" / "s.h5", arrays, SETTINGS)


def test_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASE2HPC_STORE_BUDGET", "1.5G")
    assert store_budget() == 3 << 29
    monkeypatch.setenv("PHASE2HPC_STORE_BUDGET", "4096")
    assert store_budget() == 4096
    monkeypatch.setenv("PHASE2HPC_STORE_BUDGET", "much")
    with pytest.raises(InputError, match="much"):
        store_budget()
    monkeypatch.delenv("PHASE2HPC_STORE_BUDGET")
    assert 1 << 20 < store_budget() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_merge_joins_new_to_old(arrays: GraphArrays, tmp_path: Path) -> None:
    old, new, out = tmp_path / "old.h5", tmp_path / "new.h5", tmp_path / "out.h5"
    write_store(old, arrays.block(0, 25), SETTINGS, source={"name": "old.jsonl"})
    late = arrays.block(20, 41)
    labels = {**late.labels, "mine": np.arange(21, dtype=np.float32)}
    labels["mine"][:5] = np.nan  # the crystals that are in both have nothing new
    fields = {name: getattr(late, name) for name in FIELDS}
    write_store(new, GraphArrays(**fields, labels=labels), SETTINGS)
    summary = merge_stores([old, new], out)
    assert (summary.crystals, summary.duplicates) == (41, 5)
    assert summary.added == {str(old): 25, str(new): 16}
    merged = Store.open(out).arrays
    assert merged is not None
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(merged, name), getattr(arrays, name))
    assert np.isnan(merged.labels["mine"][:25]).all() and merged.labels["mine"][25] == 5
    assert verify_store(out).ok
    lines = info_lines(read_info(out))
    assert "old.jsonl, new.h5" in lines[3]
    train, val, test = ((merged.split == code) for code in range(3))
    counts = [str(int(here.sum())) for here in (train, val, test)]
    (row,) = (line for line in lines if line.startswith("  crystals  ") and "atoms" not in line)
    assert row.split()[1:] == counts and sum(map(int, counts)) == 40
    labelled = ~np.isnan(merged.labels["formation_energy"])
    (row,) = (line for line in lines if line.startswith("  formation_energy (eV/atom)"))
    assert row.split()[2:] == [str(int((here & labelled).sum())) for here in (train, val, test)]
    with pytest.raises(InputError, match="exists"):
        merge_stores([old, new], out)


def test_merge_refuses_what_does_not_fit(arrays: GraphArrays, tmp_path: Path) -> None:
    old, new, out = tmp_path / "old.h5", tmp_path / "new.h5", tmp_path / "out.h5"
    write_store(old, arrays, SETTINGS)
    write_store(new, arrays, GraphSettings(cutoff=5.5))
    with pytest.raises(InputError, match=r"cutoff 5\.0 and 5\.5"):
        merge_stores([old, new], out)
    write_store(new, graphs(sample_raws(3), float64=True), SETTINGS)
    with pytest.raises(InputError, match="float64"):
        merge_stores([old, new], out)
    raws = sample_raws(3)
    raws[1].labels = {"formation_energy": 1.25}
    write_store(new, graphs(raws), SETTINGS)
    with pytest.raises(InputError, match=f"'{raws[1].id}'"):
        merge_stores([old, new], out)
    assert set(tmp_path.iterdir()) == {old, new}


@pytest.mark.parametrize("split", ["val", "test"])
def test_merge_refuses_compounds_in_train_and_another_split(split: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    raw = sample_raws(1)[0]
    raw.split = "train"
    write_store(old, graphs([raw]), SETTINGS)
    raw.id, raw.split = "polymorph", split
    write_store(new, graphs([raw]), SETTINGS)
    with pytest.raises(InputError, match="1 compounds"):
        merge_stores([old, new], tmp_path / "out.h5")
    raw.split = "train"
    write_store(new, graphs([raw]), SETTINGS)
    assert merge_stores([old, new], tmp_path / "out.h5").crystals == 2
    # One store has the compound in both on its own, also where another has one of its crystals.
    other = replace(raw, id="other", split=split)
    write_store(new, graphs([raw, other]), SETTINGS)
    write_store(old, graphs([raw]), SETTINGS)
    assert merge_stores([old, new], tmp_path / "both.h5").crystals == 2


def test_nothing_here_needs_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import phase2hpc.data.prepare"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """What was read as a whole, with a cache of its own."""
    monkeypatch.setenv("PHASE2HPC_CACHE", str(tmp_path / "cache"))
    seen: list[Path] = []

    def counted(path: Path) -> verify.VerifyReport:
        seen.append(path)
        return verify_store(path)

    monkeypatch.setattr(verify, "verify_store", counted)
    return seen


def test_a_store_is_verified_once(
    arrays: GraphArrays, tmp_path: Path, verified: list[Path]
) -> None:
    path = tmp_path / "s.h5"
    write_store(path, arrays, SETTINGS)
    (tmp_path / "link.h5").symlink_to(path)
    verify_once(path)
    verify_once(path)
    verify_once(tmp_path / "link.h5")
    assert len(verified) == 1
    os.utime(path, ns=(1, 1))
    verify_once(path)
    verify_once(path)
    assert len(verified) == 2
    # Neither size nor time tells, but the root does.
    path.write_bytes(path.read_bytes().replace(read_info(path).content_hash.encode(), b"0" * 64))
    os.utime(path, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(InputError, match=r"s\.h5 is damaged: the content hash") as failure:
            verify_once(path)
        assert "prepare the store again" in str(failure.value)
    assert len(verified) == 4


def test_stores_made_here_are_trusted(
    arrays: GraphArrays, tmp_path: Path, verified: list[Path]
) -> None:
    old, new, out = tmp_path / "old.h5", tmp_path / "new.h5", tmp_path / "out.h5"
    write_store(old, arrays.block(0, 25), SETTINGS)
    write_store(new, arrays.block(25, 41), SETTINGS)
    merge_stores([old, new], out)
    assert verified == [old, new]
    verify_once(out)
    assert verified == [old, new]
    with pytest.raises(StoreNotFound, match="no store at"):
        verify_once(tmp_path / "none.h5")


def test_damage_is_told_with_the_dataset(
    arrays: GraphArrays, tmp_path: Path, verified: list[Path]
) -> None:
    path = tmp_path / "s.h5"
    write_store(path, arrays, SETTINGS)
    with h5py.File(path) as file:
        chunk = file["lattice"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"s\.h5.*'lattice' is damaged.*prepare") as failure:
        verify_once(path)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'[1, {"path": 2}]', b"\xff"])
def test_a_cache_that_cannot_be_used(
    arrays: GraphArrays,
    tmp_path: Path,
    verified: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
) -> None:
    path = tmp_path / "s.h5"
    write_store(path, arrays, SETTINGS)
    cache = tmp_path / "cache"
    if content is None:
        cache.write_text("a file, so that no folder can be made")
    else:
        cache.mkdir()
        (cache / "verified_stores.json").write_bytes(content)
    verify_once(path)
    verify_once(path)
    assert len(verified) == (2 if content is None else 1)
