"""Stores that someone made to do harm: refused by ``verify`` and by readers, with the reason.

An attacker can compute the content hash anew, so wherever that is possible it is done here: what
refuses a store must not be its hash.
"""

from __future__ import annotations

import operator
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tampered_stores import CONTENT, INDICES, KINDS, LABEL, NOT_HASHED, put, rehash
from tiny import Tiny

from phase2hpc.data.graph_arrays import FIELDS
from phase2hpc.data.store import verify
from phase2hpc.data.store.info import read_info
from phase2hpc.data.store.layout import StoreNotFound, dataset_paths
from phase2hpc.data.store.merge import merge_stores
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import inspect, verify_once, verify_store
from phase2hpc.errors import InputError
from phase2hpc.utils.rlimits import limit_memory, limit_seconds
from phase2hpc.utils.worker_pool import Worker


@pytest.fixture
def tampered(tiny: Tiny, tmp_path: Path) -> Callable[[str], Path]:
    """``tampered(kind)``: a copy of a sound store with this one thing changed."""

    def make(kind: str) -> Path:
        path = tmp_path / "s.h5"
        path.write_bytes(tiny.store.read_bytes())
        with h5py.File(path, "r+") as file:
            KINDS[kind][0](file)
        if kind not in NOT_HASHED:
            rehash(path)
        return path

    return make


def refusal(read: Callable[[], object]) -> str:
    """What it is refused with, which is one line."""
    with pytest.raises(InputError) as refused:
        read()
    message = str(refused.value)
    assert "\n" not in message and message.isprintable()
    return message


class SharedWorker:
    """One child process for many checks: its start takes longer than they do."""

    child: Worker

    def __init__(self, check: Callable[[str], Any]) -> None:
        self.check = check

    def send(self, task: str) -> None:
        self.child.send(partial(self.check, task))

    def receive(self) -> Any:
        return self.child.receive()

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def shared_worker() -> Iterator[type[SharedWorker]]:
    SharedWorker.child = Worker(operator.call)
    yield SharedWorker
    SharedWorker.child.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tampered_store_is_refused(
    tampered: Callable[[str], Path],
    shared_worker: type[SharedWorker],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    path = tampered(kind)
    expected = KINDS[kind][1]
    monkeypatch.setattr(verify, "Worker", shared_worker)
    report = verify_store(path)
    assert not report.ok
    lines = report.lines()
    assert lines[0].endswith("s.h5: DAMAGED") and expected in "".join(lines)
    assert expected in refusal(lambda: verify_once(path))
    if kind in CONTENT:
        return
    for budget in (None, 0):
        message = refusal(lambda budget=budget: _read_all(Store.open(path, budget)))
        assert expected in message and "s.h5" in message


def _read_all(store: Store) -> None:
    for block in store.blocks():
        block.ids()


def test_a_sound_store_is_not_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    path.write_bytes(tiny.store.read_bytes())
    with h5py.File(path, "r+") as file:
        for name in (*FIELDS, LABEL):
            put(file, name, file[name][...])
    before = read_info(path).content_hash
    rehash(path)
    assert verify_store(path).ok and read_info(path).content_hash == before
    _read_all(Store.open(path, 0))


COMMANDS = {
    "train": ("train", "--level", "lite", "--algorithm", "cgcnn", "--store"),
    "info": ("store", "info"),
}


@pytest.mark.parametrize(
    "kind", ["sender in floats", "link to another file", "rows of nothing", "a negative pointer"]
)
def test_commands_refuse_it_in_one_line(
    tampered: Callable[[str], Path], tmp_path: Path, command: Callable[..., Any], kind: str
) -> None:
    path = tampered(kind)
    code, out, err = command("store", "verify", path)
    assert (code, err) == (1, "") and "DAMAGED" in out and KINDS[kind][1] in out
    for name, arguments in COMMANDS.items():
        if name == "info" and kind in INDICES:
            continue
        models = ("--models-dir", tmp_path / "models") if name == "train" else ()
        code, out, err = command(*arguments, path, *models)
        assert code == 2 and err.count("\n") == 1 and KINDS[kind][1] in err, name
    assert not (tmp_path / "models").exists()


def test_merge_and_dataset_verify_what_they_are_given(
    tampered: Callable[[str], Path], tiny: Tiny, tmp_path: Path
) -> None:
    from phase2hpc.data.dataset import StoreDataset

    path = tampered("images far away")
    out = tmp_path / "out.h5"
    assert "an edge longer" in refusal(lambda: merge_stores([tiny.store, path], out))
    assert not out.exists()
    assert "an edge longer" in refusal(lambda: StoreDataset(path))
    assert "an edge longer" in refusal(lambda: StoreDataset(str(path)))


def test_what_is_no_file_is_not_opened(tmp_path: Path, tiny: Tiny) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "circle.h5").symlink_to("circle.h5")
    (tmp_path / "device.h5").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "circle", "device"):
        path = tmp_path / f"{name}.h5"
        for read in (verify_store, verify_once, Store.open, read_info):
            with pytest.raises(StoreNotFound, match=f"{name}.h5"):
                read(path)


def test_bytes_before_the_store_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    path.write_bytes(b"#!/bin/sh\n".ljust(512, b"\0") + tiny.store.read_bytes())
    assert "begins with 512 bytes" in refusal(lambda: Store.open(path))
    assert "begins with 512 bytes" in verify_store(path).problems[0]


def test_a_store_that_changes_is_verified_again(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    path.write_bytes(tiny.store.read_bytes())
    verify_once(path)
    with h5py.File(path, "r+") as file:
        KINDS["images far away"][0](file)
    rehash(path)
    os.utime(path, ns=(2, 2))
    assert "an edge longer" in refusal(lambda: verify_once(path))


def test_a_store_replaced_while_in_use_is_not_mixed_with_the_new(
    tiny: Tiny, tampered: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "in-use.h5"
    path.write_bytes(tiny.store.read_bytes())
    store = Store.open(path, budget=0)
    state = pickle.dumps(store)
    path.touch()
    assert len(store.read_block(3, 9)) == 6
    for kind, reason in (
        ("a flat lattice", "was replaced"),
        ("soft link", "is a soft or external link"),
    ):
        tampered(kind).replace(path)
        assert reason in refusal(lambda: store.read_block(3, 9))
        assert reason in refusal(lambda: store.ids(np.array([1])))
        assert reason in refusal(lambda: pickle.loads(state))


def test_what_never_fits_is_said_before_it_is_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phase2hpc.data.store.reader.free_memory", lambda: 1000)
    assert "pointers and labels of 150 crystals take" in refusal(lambda: Store.open(tiny.store, 0))


def crash(task: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def compute_without_end(task: str) -> None:
    limit_seconds(0.2)
    while True:
        pass


def take_all_memory(task: str) -> str:
    limit_memory(1 << 28)
    try:
        bytearray(1 << 29)
    except MemoryError:
        return "no more"
    return "too much"


@pytest.mark.parametrize("act", [crash, compute_without_end])
def test_a_reader_that_crashes_or_hangs_takes_nobody_along(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]
) -> None:
    monkeypatch.setattr(verify, "_Check", lambda path: act)
    report = verify_store(tiny.store)
    assert (
        not report.ok
        and "reading the file's root crashed or exceeded its limits" in report.problems[0]
    )
    assert "is damaged or truncated (a worker process" in refusal(lambda: inspect(tiny.store))
    monkeypatch.undo()
    assert inspect(tiny.store) == read_info(tiny.store)


def test_memory_of_a_reader_is_bounded() -> None:
    worker = Worker(take_all_memory)
    worker.send("")
    assert worker.receive() == "no more"
    worker.close()


FLIPS = int(os.environ.get("PHASE2HPC_TEST_FLIPS", "60"))


def test_flipped_bytes_never_crash_a_reader_unseen(
    tiny: Tiny,
    tmp_path: Path,
    shared_worker: type[SharedWorker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One to three bytes, of the file's own structure more often than of data: a store that
    verifies is read without harm, and reads as before where its hash still stands."""
    monkeypatch.setattr(verify, "Worker", shared_worker)
    whole = tiny.store.read_bytes()
    with h5py.File(tiny.store) as file:
        data = np.zeros(len(whole), dtype=bool)
        for name in dataset_paths(file):
            chunk = file[name].id.get_chunk_info(0)
            data[chunk.byte_offset : chunk.byte_offset + chunk.size] = True
        # The heap of long texts and the free space of tables are mostly zeros.
        structure = np.flatnonzero(~data & (np.frombuffer(whole, np.uint8) != 0))
    before = Store.open(tiny.store)
    draw = np.random.default_rng(7)
    path = tmp_path / "s.h5"
    refused = 0
    for _ in range(FLIPS):
        flipped = bytearray(whole)
        for _ in range(draw.integers(1, 4)):
            place = draw.choice(structure) if draw.random() < 0.9 else draw.integers(len(whole))
            flipped[place] ^= 1 << draw.integers(8)
        path.write_bytes(flipped)
        try:
            report = verify_store(path)
        except StoreNotFound as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        if any("crashed" in problem for problem in report.problems):
            shared_worker.child.close()
            shared_worker.child = Worker(operator.call)
        if not report.ok:
            refused += 1
            assert all("\n" not in line for line in report.lines())
            continue
        store = Store.open(path)
        assert store.content_hash == before.content_hash
        np.testing.assert_array_equal(store.arrays.sender, before.arrays.sender)
    assert refused > FLIPS / 4
