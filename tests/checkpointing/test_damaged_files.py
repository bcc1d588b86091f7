"""Fallback to the newest valid checkpoint where files are damaged, unreadable or no files."""

import contextlib
import errno
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpoints import found_step, legacy_sealed, names, state_of, torch_saved, without_comment

from phase2hpc.checkpointing.file_errors import CorruptCheckpoint, NewerVersion
from phase2hpc.checkpointing.file_format import COMMENT_SIZE, read_state, read_step
from phase2hpc.checkpointing.legacy_format import HEADER_SIZE
from phase2hpc.checkpointing.manager import load_best, load_newest, save_checkpoint
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.run_directory import RunDirectory

NOBODY = 65534


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
