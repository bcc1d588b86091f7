"""Checkpoint files are torch archives that other programs read."""

from __future__ import annotations

import zipfile
from hashlib import sha256

import pytest
import torch
from checkpoints import best_of, legacy_sealed, sealed, state_of, torch_saved

from phase2hpc.checkpointing.file_errors import CorruptCheckpoint
from phase2hpc.checkpointing.file_format import COMMENT_SIZE, read_state
from phase2hpc.checkpointing.manager import save_best, save_checkpoint
from phase2hpc.checkpointing.plain_values import to_plain
from phase2hpc.runs.run_directory import RunDirectory


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_it_by_itself(run: RunDirectory, mmap: bool) -> None:
    weights = {"w": torch.arange(70_000.0), "b": torch.ones(3, 2).T, "none": torch.zeros(0)}
    save_best(run, best_of(3, weights=weights, score=0.25))
    save_checkpoint(run, state_of(4, model=weights), 4, keep=1)
    best = torch.load(run.best, weights_only=True, mmap=mmap)
    state = torch.load(run.checkpoint, weights_only=True, mmap=mmap)
    assert (best["kind"], best["epoch"], best["score"]) == ("best", 3, 0.25)
    assert (state["kind"], state["step"]) == ("checkpoint", 4)
    for read in (best["weights"], state["model"]):
        torch.testing.assert_close(read, weights, rtol=0, atol=0)


def test_other_programs_find_the_archive_whole(run: RunDirectory) -> None:
    """zipfile reads it, and the checksum can be computed by hand."""
    save_best(run, best_of(3))
    whole = run.best.read_bytes()
    with zipfile.ZipFile(run.best) as archive:
        assert archive.testzip() is None
        assert archive.comment == whole[-COMMENT_SIZE:]
    assert sha256(whole[:-64]).hexdigest().encode() == whole[-64:]
    assert f" step {3:020d} ".encode() in whole[-COMMENT_SIZE:]


def test_a_claimed_size_allocates_no_memory(run: RunDirectory) -> None:
    for length in (2**40, 2**63, 2**64 - 1):
        run.checkpoint.write_bytes(legacy_sealed(b"", length=length))
        with pytest.raises(CorruptCheckpoint, match=f"where {length} were written"):
            read_state(run.checkpoint)
    content = sealed(torch_saved({}))
    with open(run.checkpoint, "wb") as file:  # 1 TiB, and nothing of it on disk
        file.write(content[:-COMMENT_SIZE])
        file.seek(2**40)
        file.write(content[-COMMENT_SIZE:])
    with pytest.raises(CorruptCheckpoint, match=f"where {len(content)} were written"):
        read_state(run.checkpoint)


def test_only_what_must_be_is_copied() -> None:
    weights = torch.nn.Parameter(torch.ones(3, 4))
    plain = to_plain({"whole": weights, "row": weights[1], "turned": weights.T})
    assert plain["whole"].data_ptr() == weights.data_ptr()
    for tensor in plain.values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes and not tensor.requires_grad
        assert tensor.is_contiguous()
