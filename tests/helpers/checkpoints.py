"""Contents of checkpoint files, files of both formats with checksums that are right, and run
directories of them."""

from __future__ import annotations

import io
import struct
from hashlib import sha256
from typing import Any

import torch

from phase2hpc.checkpointing.file_format import COMMENT_SIZE, seal
from phase2hpc.checkpointing.manager import load_newest
from phase2hpc.runs.run_directory import RunDirectory

# The functions of os that a checkpoint is written and read with.
STEPS = ("open", "write", "fsync", "pread", "link", "replace", "close", "unlink", "listdir")

SCALER: dict[str, Any] = {
    "properties": ["ehull"], "mean": [0.0], "std": [1.0], "asinh_scale": [0.0],
    "label_fraction": [1.0],
}  # fmt: skip


def state_of(step: int, **more: Any) -> dict[str, Any]:
    """A whole state of a trainer, of the least size."""
    weights = {"weights": torch.full((20,), float(step))}
    skipped = {"total": 0, "in_epoch": 0, "in_row": 0, "rate_factor": 1.0}
    return {
        "numerics_version": 1, "step": step, "model": weights, "averaged": weights, "loss": {},
        "optimizer": {"state": {}, "param_groups": []}, "scaler": SCALER, "sampler": {},
        "rng": [{}], "history": [], "loss_sums": torch.zeros(2), "counted": 0,
        "skipped": skipped, "best_score": 0.5, "best_epoch": 0,
    } | more  # fmt: skip


def best_of(epoch: int, **more: Any) -> dict[str, Any]:
    return {
        "config": "{}", "graph_settings": {}, "scaler": SCALER, "weights": {}, "elements": [1],
        "epoch": epoch, "score": 1.0,
    } | more  # fmt: skip


def without_comment(content: bytes) -> bytes:
    """The archive as torch wrote it."""
    return content[: -COMMENT_SIZE - 2] + b"\0\0"


def sealed(archive: bytes, version: int = 2, step: int = 5) -> bytes:
    """A file of the present format whose checksums are right, whatever ``archive`` is."""
    whole = archive[:-2] + seal(archive[:-2], step)
    if version == 2:
        return whole
    comment = whole[-COMMENT_SIZE:].replace(b"format 0002", b"format %04d" % version)
    fields, _, _ = comment.partition(b" check ")
    fields += b" check "
    whole = whole[:-COMMENT_SIZE] + fields + sha256(fields).hexdigest()[:16].encode() + b" sha256 "
    return whole + sha256(whole).hexdigest().encode()


def legacy_sealed(
    payload: bytes, version: int = 1, length: int | None = None, step: int = 5
) -> bytes:
    """The same in the format of phase2hpc 0.1."""
    length = len(payload) if length is None else length
    fields = struct.pack("<8sIQQ32s", b"PHASE2ST", version, step, length, sha256(payload).digest())
    return fields + sha256(fields).digest()[:8] + payload


SEALS = {"present": sealed, "legacy": legacy_sealed}


def torch_saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


def found_step(run: RunDirectory) -> int:
    """The step of the state that is found, which must be whole."""
    found = load_newest(run)
    assert found is not None
    state, step, _ = found
    assert state["step"] == step
    weights = state["model"]["weights"]
    assert torch.equal(weights, torch.full_like(weights, float(step)))
    return step


def clear(run: RunDirectory) -> None:
    for path in run.path.iterdir():
        path.unlink()
