"""Checkpoints: the newest valid state is found whatever happens to the writer or the files."""

import contextlib
import errno
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import (
    SCALER,
    best_of,
    legacy_sealed,
    sealed,
    state_of,
    torch_saved,
    without_comment,
)
from paths import HELPERS

from phase2hpc.checkpointing.file_errors import CorruptCheckpoint, NewerVersion
from phase2hpc.checkpointing.file_format import COMMENT_SIZE, read_state, read_step
from phase2hpc.checkpointing.legacy_format import HEADER_SIZE
from phase2hpc.checkpointing.manager import (
    best_epoch,
    load_best,
    load_newest,
    save_best,
    save_checkpoint,
)
from phase2hpc.checkpointing.plain_values import DTYPES
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.run_directory import RunDirectory

NOBODY = 65534


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


def found_step(run: RunDirectory) -> int:
    found = load_newest(run)
    assert found is not None
    state, step, _ = found
    assert state["step"] == step
    weights = state["model"]["weights"]
    assert torch.equal(weights, torch.full_like(weights, float(step)))
    return step


def test_none_where_there_never_was_one(run: RunDirectory) -> None:
    assert load_newest(run) is None
    assert load_newest(RunDirectory(run.path / "absent")) is None


def test_newest_beside_older_ones(run: RunDirectory) -> None:
    for step in (9, 10, 100, 101):
        save_checkpoint(run, state_of(step), step, keep=3)
    assert names(run) == ["checkpoint.pt", "checkpoint_10.pt", "checkpoint_100.pt"]
    assert found_step(run) == 101
    save_checkpoint(run, state_of(101), 101, keep=3)  # the same step again replaces itself
    assert names(run) == ["checkpoint.pt", "checkpoint_10.pt", "checkpoint_100.pt"]
    save_checkpoint(run, state_of(102), 102, keep=1)
    assert names(run) == ["checkpoint.pt"]


def test_order_is_by_step_not_by_time_or_name(run: RunDirectory) -> None:
    for step in (5, 20, 100):
        save_checkpoint(run, state_of(step), step, keep=3)
    for age, name in enumerate(("checkpoint.pt", "checkpoint_20.pt", "checkpoint_5.pt")):
        os.utime(run.path / name, (1e9 + age, 1e9 + age))
    assert found_step(run) == 100
    run.checkpoint.unlink()
    assert found_step(run) == 20
    run.checkpoint_of(5).rename(run.checkpoint)  # an old one copied back by hand
    assert found_step(run) == 20


def test_works_without_hard_links(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2, 3):
        save_checkpoint(run, state_of(step), step, keep=2)
    assert names(run) == ["checkpoint.pt", "checkpoint_2.pt"]
    assert found_step(run) == 3


def test_a_writer_behind_the_file_is_refused(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(10), 10, keep=2)
    with pytest.raises(Phase2Error, match="another process"):
        save_checkpoint(run, state_of(7), 7, keep=2)
    assert found_step(run) == 10


def damage_and_find(run: RunDirectory, content: bytes, besides: Sequence[str] = ()) -> None:
    """checkpoint.pt with this content falls back to step 1; then everything is put back."""
    run.checkpoint.unlink(missing_ok=True)
    run.checkpoint.write_bytes(content)
    assert found_step(run) == 1
    aside = run.path / "checkpoint.pt.damaged"
    assert names(run) == sorted(["checkpoint.pt.damaged", "checkpoint_1.pt", *besides])
    assert aside.read_bytes() == content
    aside.unlink()


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


FORMATS = ("present", "legacy")


def whole_checkpoint(run: RunDirectory, file_format: str) -> bytes:
    """Saves steps 1 and 2; the bytes of the second, in this format."""
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    whole = run.checkpoint.read_bytes()
    if file_format == "legacy":
        whole = legacy_sealed(without_comment(whole), step=2)
        run.checkpoint.write_bytes(whole)
        assert found_step(run) == 2
    return whole


def edges(whole: bytes, file_format: str) -> range:
    """Bytes of the header or of the comment."""
    if file_format == "legacy":
        return range(HEADER_SIZE)
    return range(len(whole) - COMMENT_SIZE - 22, len(whole))


@pytest.mark.parametrize("file_format", FORMATS)
def test_any_flipped_bit_falls_back(run: RunDirectory, file_format: str) -> None:
    """Every bit of header or comment, one of every third byte of the archive."""
    whole = whole_checkpoint(run, file_format)
    rng = random.Random(0)
    flips = [(place, bit) for place in edges(whole, file_format) for bit in range(8)]
    flips += [(place, rng.randrange(8)) for place in range(0, len(whole), 3)]
    other = run.path / "flipped"
    for place, bit in flips:
        other.write_bytes(flipped(whole, place, bit))
        with pytest.raises((CorruptCheckpoint, NewerVersion)):
            read_state(other)
        with contextlib.suppress(CorruptCheckpoint, NewerVersion):
            assert read_step(other) == 2
    other.unlink()
    for place, bit in rng.sample(flips, 60):
        damage_and_find(run, flipped(whole, place, bit))
    run.checkpoint.write_bytes(whole)
    assert found_step(run) == 2


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated_at_any_byte_extended_or_foreign_falls_back(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, file_format: str
) -> None:
    whole = whole_checkpoint(run, file_format)
    other = run.path / "cut"
    other.write_bytes(whole)
    for length in reversed(range(len(whole))):
        os.truncate(other, length)
        with pytest.raises(CorruptCheckpoint):
            read_state(other)
    other.unlink()
    cuts = (0, 1, 22, HEADER_SIZE, HEADER_SIZE + 1, COMMENT_SIZE, len(whole) // 2)
    for length in (*cuts, len(whole) - COMMENT_SIZE, len(whole) - 1):
        damage_and_find(run, whole[:length])
    for more in (b"\0", whole[-COMMENT_SIZE:], whole):
        damage_and_find(run, whole + more)
    # Whole at both ends, and bytes lost, doubled or swapped between them.
    middle = len(whole) // 2
    damage_and_find(run, whole[:middle] + whole[middle + 64 :])
    damage_and_find(run, whole[:middle] + whole[middle - 64 :])
    damage_and_find(run, whole[: middle - 64] + bytes(64) + whole[middle:])
    damage_and_find(run, bytes(len(whole)))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        damage_and_find(run, torch_saved(state_of(2)))
    (line,) = caplog.messages
    assert str(run.checkpoint) in line and "set aside as checkpoint.pt.damaged" in line
    assert "not written by phase2hpc" in line


def put_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (put_folder, "not a file: it is a folder"),
        (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (os.mkfifo, "not a file: it is a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file: it is a device"),
    ],
)
def test_what_is_no_file_is_set_aside(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, put: Callable[[Path], Any], reason: str
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=3)
    save_checkpoint(run, state_of(2), 2, keep=3)
    for path in (run.checkpoint, run.checkpoint_of(7)):
        path.unlink(missing_ok=True)
        put(path)
    assert found_step(run) == 1
    assert len(run.damaged_checkpoints()) == 2 and reason in caplog.text
    put(run.checkpoint)
    save_checkpoint(run, state_of(3), 3, keep=3)  # nor does it stop a run that is at work
    assert found_step(run) == 3
    put(run.best)
    with pytest.raises(InputError, match=f"best.pt.*{reason}"):
        load_best(run.best)


@pytest.fixture
def no_root() -> Iterator[Path]:
    """A folder of one who may not read every file, as root may."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() != 0:
            yield Path(folder)
            return
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


def test_an_unreadable_file_is_set_aside(no_root: Path) -> None:
    run = RunDirectory(no_root)
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    run.checkpoint.chmod(0)
    assert found_step(run) == 1
    assert names(run) == ["checkpoint.pt.unreadable", "checkpoint_1.pt"]


def test_a_folder_that_must_not_be_written_is_said(no_root: Path) -> None:
    run = RunDirectory(no_root)
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    no_root.chmod(0o500)
    assert found_step(run) == 2
    with pytest.raises(Phase2Error, match="cannot be saved: permission denied"):
        save_checkpoint(run, state_of(3), 3, keep=2)
    run.checkpoint.write_bytes(b"rubbish")
    with pytest.raises(Phase2Error, match="cannot be set aside .Permission denied"):
        load_newest(run)


def test_a_disk_that_fails_to_read_is_survived(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    real = os.open

    def fail(path: Any, *rest: Any) -> int:
        if path == run.checkpoint:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", fail)
    assert found_step(run) == 1
    assert names(run) == ["checkpoint.pt.unreadable", "checkpoint_1.pt"]


def test_too_many_open_files_sets_nothing_aside(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)

    def fail(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(Phase2Error, match="checkpoint.pt: cannot be read"):
        load_newest(run)
    assert names(run) == ["checkpoint.pt"]


def test_set_aside_again_and_again(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    for content in (b"first", b"second", b"third"):
        run.checkpoint.write_bytes(content)
        assert found_step(run) == 1
    aside = [f"checkpoint.pt.damaged{number}" for number in ("", "-2", "-3")]
    assert [path.name for path in run.damaged_checkpoints()] == aside
    assert [(run.path / name).read_bytes() for name in aside] == [b"first", b"second", b"third"]


def test_only_damaged_ones_is_an_error_now_and_later(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-1])
    for _ in range(2):  # the second time there is only the file set aside: no silent restart
        with pytest.raises(Phase2Error, match=r"checkpoint\.pt\.damaged"):
            load_newest(run)


def test_a_damaged_newest_does_not_stop_the_next_save(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=3)
    save_checkpoint(run, state_of(2), 2, keep=3)
    run.checkpoint.write_bytes(b"rubbish")
    save_checkpoint(run, state_of(3), 3, keep=3)
    assert found_step(run) == 3
    assert "checkpoint_1.pt" in names(run)


NEWER_STATE = torch_saved({"kind": "checkpoint", "schema_version": 99, "what": "ever"})
NEWER = [
    sealed(NEWER_STATE, version=3),
    sealed(NEWER_STATE),
    legacy_sealed(b"?", version=2),
    legacy_sealed(NEWER_STATE),
]


@pytest.mark.parametrize("content", NEWER)
def test_a_newer_version_is_named_and_left_alone(run: RunDirectory, content: bytes) -> None:
    run.checkpoint.write_bytes(content)
    run.best.write_bytes(content)
    for read in (lambda: load_newest(run), lambda: load_best(run.best)):
        with pytest.raises(InputError, match=r"version \d+.*: update phase2hpc"):
            read()
    assert names(run) == ["best.pt", "checkpoint.pt"]


@pytest.mark.parametrize("content", NEWER)
def test_a_newer_version_beside_an_older_one_is_set_aside(
    run: RunDirectory, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(run, state_of(4), 4, keep=2)
    run.checkpoint.rename(run.checkpoint_of(4))
    run.checkpoint.write_bytes(content)
    assert found_step(run) == 4
    assert "set aside as checkpoint.pt.newer-version" in caplog.text
    assert (run.path / "checkpoint.pt.newer-version").read_bytes() == content


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "best"}, "'kind'"),
        ({"step": "7"}, "'step'"),
        ({"model": {"w": [1.0]}}, "'model.w'"),
        ({"history": {"a": 1}}, "'history'"),
        ({"rng": []}, "'rng'"),
        ({"scaler": {**SCALER, "mean": "0"}}, "'scaler.mean'"),
        ({"schema_version": "2"}, "schema version is '2'"),
        ({"schema_version": True}, "schema version is True"),
        ({"schema_version": 0}, "schema version is 0"),
        ({"numerics_version": "1"}, "'numerics_version'"),
    ],
)
def test_a_whole_file_of_other_content_falls_back(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, change: dict[str, Any], problem: str
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    save_checkpoint(run, {**state_of(3), **change}, 3, keep=2)
    assert found_step(run) == 2
    (line,) = caplog.messages
    assert problem in line and "\n" not in line


def test_a_key_that_is_missing_falls_back(run: RunDirectory) -> None:
    whole = state_of(2)
    for key in whole:
        save_checkpoint(run, state_of(1), 1, keep=2)
        save_checkpoint(run, {k: v for k, v in whole.items() if k != key}, 2, keep=2)
        assert found_step(run) == 1
        run.checkpoint_of(1).rename(run.checkpoint)


def test_what_could_not_be_read_back_is_not_saved(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=1)
    sparse, complex_ = torch.eye(2).to_sparse(), torch.zeros(2, dtype=torch.complex64)
    for bad in (Path("x"), {1, 2}, object(), torch.float32, b"bytes", sparse, complex_):
        with pytest.raises(TypeError, match=r"state\['deep'\]\[1\]"):
            save_checkpoint(run, {"deep": [0, bad]}, 2, keep=1)
    with pytest.raises(TypeError, match="key"):
        save_checkpoint(run, {"deep": {(1, 2): 3}}, 2, keep=1)
    assert names(run) == ["checkpoint.pt"]
    assert found_step(run) == 1


def test_full_disk_keeps_the_old_state(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=1)
    save_best(run, best_of(1))
    big = state_of(2, model={"w": torch.zeros(100_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Phase2Error, match=r"checkpoint\.pt: cannot be saved: .*--resume"):
            save_checkpoint(run, big, 2, keep=1)
        with pytest.raises(Phase2Error, match=r"best\.pt: cannot be saved"):
            save_best(run, best_of(2, weights=big["model"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(run) == ["best.pt", "checkpoint.pt"]
    assert found_step(run) == 1
    assert load_best(run.best)["epoch"] == 1
    save_checkpoint(run, state_of(2), 2, keep=1)
    assert found_step(run) == 2


def test_states_come_back_as_they_were(run: RunDirectory) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = state_of(
        1,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        history=[{"loss": np.float64(0.1), "n": np.int64(3), "mae": None}],
        betas=(0.9, 0.999),
        flags=[True, "text", float("inf"), -(2**70)],
        array=np.arange(5),
        view=torch.arange(1_000_000)[::250_000],
        dtypes=[torch.ones(3).to(dtype) for dtype in sorted(DTYPES, key=str)],
    )
    save_checkpoint(run, state, 1, keep=1)
    found = load_newest(run)
    assert found is not None
    read = found[0]
    torch.testing.assert_close(read["model"], dict(state["model"]), rtol=0, atol=0)
    fresh = torch.optim.AdamW(model.parameters())
    fresh.load_state_dict(read["optimizer"])
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert read["history"] == [{"loss": 0.1, "n": 3, "mae": None}]
    assert type(read["history"][0]["loss"]) is float
    assert read["betas"] == (0.9, 0.999)
    assert read["flags"] == state["flags"]
    assert torch.equal(read["array"], torch.arange(5))
    assert torch.equal(read["view"], state["view"])
    for tensor, dtype in zip(read["dtypes"], sorted(DTYPES, key=str), strict=True):
        assert tensor.dtype is dtype and tensor.tolist() == [1, 1, 1]
    assert run.checkpoint.stat().st_size < 100_000  # a view is saved without what lies behind it


def test_best(run: RunDirectory) -> None:
    with pytest.raises(InputError, match="no trained weights yet"):
        load_best(run.best)
    save_best(run, best_of(3, weights={"w": torch.ones(2)}))
    assert load_best(run.best)["epoch"] == 3
    whole = run.best.read_bytes()
    run.best.write_bytes(whole[:-3])
    with pytest.raises(InputError, match="damaged"):
        load_best(run.best)
    save_checkpoint(run, state_of(1), 1, keep=1)
    with pytest.raises(InputError, match="not a valid best state: key 'kind'"):
        load_best(run.checkpoint)
    for key in best_of(1).keys() - {"epoch"}:
        save_best(run, best_of(1, **{key: ["x"]}))
        with pytest.raises(InputError, match=f"'{key}"):
            load_best(run.best)


def test_bests_by_number(run: RunDirectory) -> None:
    for epoch in (1, 2, 9, 10, 11):
        save_best(run, best_of(epoch), keep=3)
    assert names(run) == ["best.pt", "best_10.pt", "best_9.pt"]
    assert load_best(run.best)["epoch"] == 11
    assert load_best(run.best_of(10))["epoch"] == 10
    save_best(run, best_of(11), keep=3)  # the same again replaces itself
    assert names(run) == ["best.pt", "best_10.pt", "best_9.pt"]
    save_best(run, best_of(10), keep=3)  # the run went back
    assert names(run) == ["best.pt", "best_9.pt"]
    run.best.write_bytes(b"rubbish")
    save_best(run, best_of(12), keep=3)
    assert names(run) == ["best.pt", "best.pt.damaged", "best_9.pt"]
    assert best_epoch(run) == 12
    save_best(run, best_of(13), keep=1)
    assert names(run) == ["best.pt", "best.pt.damaged"]
    run.best.write_bytes(b"")
    assert best_epoch(run) is None and best_epoch(run) is None
    assert names(run) == ["best.pt.damaged", "best.pt.damaged-2"]


# ---- disks that fail --------------------------------------------------------------------------

STEPS = ("open", "write", "fsync", "pread", "link", "replace", "close", "unlink", "listdir")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_at_any_call_leaves_a_state(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for name in STEPS:
        for failing in range(1, 100):
            clear(run)
            save_checkpoint(run, state_of(1), 1, keep=2)
            save_checkpoint(run, state_of(2), 2, keep=2)
            calls = 0
            real = getattr(os, name)

            def fail(*given: Any, real: Any = real, failing: int = failing, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == failing:
                    raise OSError(code, os.strerror(code))
                return real(*given, **named)

            saved = True
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail)
                try:
                    save_checkpoint(run, state_of(3), 3, keep=2)
                except Phase2Error as error:
                    saved = False
                    assert "cannot be" in str(error) and "\n" not in str(error)
            assert found_step(run) in ((3,) if saved else (2, 3)), (name, failing)
            # A file that could not be read is set aside, whole as it may be.
            assert code == errno.EIO or not run.damaged_checkpoints()
            save_checkpoint(run, state_of(4), 4, keep=2)
            assert found_step(run) == 4
            assert not [n for n in names(run) if n.endswith(".partial")]
            if calls < failing:
                break
        assert calls > 0, name


def clear(run: RunDirectory) -> None:
    for path in run.path.iterdir():
        path.unlink()


def test_what_reads_back_otherwise_is_not_taken(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    whole = run.checkpoint.stat().st_size
    real = os.pread
    for place in (0, whole // 2, whole - 1):

        def lie(file: int, size: int, offset: int, place: int = place) -> bytes:
            read = bytearray(real(file, size, offset))
            if offset <= place < offset + len(read):
                read[place - offset] ^= 1
            return bytes(read)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", lie)
            with pytest.raises(Phase2Error, match="cannot be saved: the content read back differs"):
                save_checkpoint(run, state_of(2), 2, keep=2)
        assert names(run) == ["checkpoint.pt"]
        assert found_step(run) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=16", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_file_system(small_disk: Path) -> None:
    run = RunDirectory(small_disk / "run")
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_best(run, best_of(1))
    ballast = small_disk / "ballast"
    for room in (0, 4096, 8192):  # nothing fits; the first part; all but the last
        space = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(space.f_bavail * space.f_bsize - room, 0)))
        with pytest.raises(Phase2Error, match=r"no space left on device.*go on with --resume"):
            save_checkpoint(run, state_of(2, more=torch.zeros(9000)), 2, keep=2)
        with pytest.raises(Phase2Error, match="no space left"):
            save_best(run, best_of(2, weights={"w": torch.zeros(9000)}))
        assert names(run) == ["best.pt", "checkpoint.pt"]
        assert found_step(run) == 1 and load_best(run.best)["epoch"] == 1
        ballast.unlink()
    save_checkpoint(run, state_of(2), 2, keep=2)
    assert found_step(run) == 2
    # Without a free inode not even the temporary file can be made.
    free = os.statvfs(small_disk).f_favail
    for number in range(free):
        (small_disk / str(number)).touch()
    with pytest.raises(Phase2Error, match="no space left"):
        save_checkpoint(run, state_of(3), 3, keep=2)
    assert found_step(run) == 2
    (small_disk / "0").unlink()
    # Room for the new file, none for a link to the old one: it is renamed instead.
    save_checkpoint(run, state_of(3), 3, keep=2)
    assert found_step(run) == 3


# ---- writers that are killed ------------------------------------------------------------------

KILLED_AT_EVERY_CALL = """
import os, signal, sys
from pathlib import Path
import torch
from phase2hpc.utils.atomic_io import clear_partials
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.checkpointing.manager import load_best, load_newest, save_best, save_checkpoint
from checkpoints import best_of, state_of
from test_manager import STEPS, clear

torch.set_num_threads(1)
run = RunDirectory(Path(sys.argv[1]))
kills, newest = 0, {2: 0, 3: 0}

def dying(name, real, target, when):
    def call(*given, **named):
        global calls
        calls += when != "half" or name == "write"
        if calls == target:
            if when == "half":
                real(given[0], given[1][: len(given[1]) // 2])
            if when == "after":
                real(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    return call

for when, keep in (("before", 1), ("half", 2), ("after", 2)):
    clear(run)
    for number in (1, 2):
        save_checkpoint(run, state_of(number), number, keep=keep)
        save_best(run, best_of(number), keep=keep)
    files = {path: path.read_bytes() for path in run.path.iterdir()}
    for target in range(1, 200):
        clear(run)
        for path, content in files.items():
            path.write_bytes(content)
        child = os.fork()
        if child == 0:
            calls = 0
            for name in STEPS:
                setattr(os, name, dying(name, getattr(os, name), target, when))
            save_best(run, best_of(3), keep=keep)
            save_checkpoint(run, state_of(3), 3, keep=keep)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        state, step, _ = load_newest(run)
        assert state["step"] == step and (state["model"]["weights"] == step).all()
        newest[step] += 1
        if run.best.exists():
            assert load_best(run.best)["epoch"] in (2, 3)
        else:
            assert load_best(run.best_of(2))["epoch"] == 2
        clear_partials(run.path)
        left = [p.name for p in run.path.iterdir() if "partial" in p.name or "damaged" in p.name]
        assert not left, left
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
print(kills, newest[2], newest[3])
"""


def test_killed_at_every_call_a_state_is_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_CALL, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(HELPERS)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills, before, after = map(int, done.stdout.split())
    assert kills > 60 and before > 40 and after > 5


KILLED_WRITERS = """
import itertools, os, random, signal, statistics, sys, time
import torch
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.checkpointing.manager import load_newest, save_checkpoint
from pathlib import Path
from checkpoints import state_of

torch.set_num_threads(1)
run = RunDirectory(Path(sys.argv[1]))
rng = random.Random(0)

def save(step):
    weights = torch.full((200_000,), float(step))
    save_checkpoint(run, state_of(step, model={"weights": weights}), step, keep=2)

times = []
for step in range(1, 6):
    began = time.monotonic()
    save(step)
    times.append(time.monotonic() - began)
last, mid_write = 5, 0
for _ in range(40):
    child = os.fork()
    if child == 0:
        for step in itertools.count(last + 1):
            save(step)
    # As long as a save or four take on this machine, so that kills fall on every part of one.
    time.sleep(rng.uniform(0, 4 * statistics.median(times)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    mid_write += any(run.path.glob(".*.partial"))
    found = load_newest(run)
    state, step, path = found
    assert step >= last and state["step"] == step
    assert path == run.checkpoint
    assert (state["model"]["weights"] == step).all()
    last = step
assert not list(run.path.glob("*.damaged"))
print(last, mid_write)
"""


def test_killed_writers_never_cost_a_state(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITERS, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(HELPERS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps, mid_write = map(int, done.stdout.split())
    assert steps > 10 and mid_write > 5  # the kills did hit writers at work
