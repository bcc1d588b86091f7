"""Checkpoints of a run: the newest full state, older ones beside it, and the best weights.

Nothing old is touched before the new file is whole on disk and read back, and the order is by the
step in the files: whenever the writer is killed, the newest valid state is found.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phase2hpc.checkpointing.file_format import (
    CheckpointError,
    NewerVersion,
    prepare_state,
    read_state,
    read_step,
)
from phase2hpc.checkpointing.schema import current, versioned
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.os_errors import refused

log = logging.getLogger(__name__)


def save_checkpoint(run: RunDirectory, state: Mapping[str, Any], step: int, keep: int) -> None:
    """Make ``state`` the newest checkpoint and keep ``keep`` full states in all.

    Raises Phase2Error where it cannot be written (a full disk), the states of before being intact,
    and where the run holds a later step already: then another process writes this run.
    TypeError for a state that could not be read back.
    """
    previous = _newest_step(run)
    if previous is not None and previous > step:
        raise Phase2Error(
            f"{run.checkpoint}: holds step {previous}, later than this process's {step}: another "
            "process writes this run; stop one of them"
        )
    beside = None if previous in (None, step) else run.checkpoint_of(previous)
    _replace(run.checkpoint, versioned("checkpoint", dict(state)), step, beside)
    _remove(lambda: [path for _, path in run.older_checkpoints()[keep - 1 :]])


def load_newest(run: RunDirectory) -> tuple[dict[str, Any], int, Path] | None:
    """(state, step, file) of the newest valid checkpoint; None where the run never had one.

    Files that are damaged, unreadable or of a newer version are set aside with a warning. Where no
    valid one is left, InputError if a newer version wrote one, which then stays where it is, and
    Phase2Error if all are damaged.
    """
    candidates: list[tuple[int, Path]] = []
    unusable: list[tuple[Path, CheckpointError]] = []
    for path in (run.checkpoint, *(path for _, path in run.older_checkpoints())):
        try:
            candidates.append((read_step(path), path))
        except FileNotFoundError:
            continue
        except CheckpointError as reason:
            unusable.append((path, reason))
        except OSError as error:
            raise _cannot_read(path, error) from error
    found = None
    # Sorting keeps checkpoint.pt first among files of the same step.
    for step, path in sorted(candidates, key=lambda candidate: -candidate[0]):
        try:
            found = current("checkpoint", read_state(path)[0]), step, path
            break
        except FileNotFoundError:
            continue  # Another process set it aside.
        except CheckpointError as reason:
            unusable.append((path, reason))
        except OSError as error:
            raise _cannot_read(path, error) from error
    newer = [f"{path}: {why}" for path, why in unusable if isinstance(why, NewerVersion)]
    for path, why in unusable:
        if found or not isinstance(why, NewerVersion):
            _set_aside(path, why)
    if found:
        return found
    if newer:
        raise InputError(f"{newer[0]}: update phase2hpc")
    aside = run.damaged_checkpoints()
    if aside:
        raise Phase2Error(
            f"{run.path}: no valid checkpoint, only such as were set aside "
            f"({', '.join(path.name for path in aside)}): train again as a new run, or remove "
            "them to begin this one from its first step"
        )
    return None


def save_best(run: RunDirectory, payload: Mapping[str, Any], keep: int = 1) -> None:
    """Make ``payload`` best.pt, and keep ``keep`` bests in all, those before it by their epochs.

    Raises Phase2Error where it cannot be written, TypeError for a payload that could not be read
    back.
    """
    epoch = payload["epoch"]
    beside = None
    if keep > 1:
        previous = best_epoch(run)
        beside = None if previous in (None, epoch) else run.best_of(previous)
    _replace(run.best, versioned("best", dict(payload)), epoch, beside)
    _remove(lambda: _superseded_bests(run, epoch, keep))


def load_best(path: Path) -> dict[str, Any]:
    """The payload of a best.pt of any version so far, in the present one's words; tensors on the
    CPU.

    Raises InputError if there is no such file, a newer version wrote it, it is damaged, or is no
    best.pt.
    """
    try:
        return current("best", read_state(path)[0])
    except FileNotFoundError:
        raise InputError(
            f"{path}: not there; the run has no trained weights yet (they come with the first "
            "validation)"
        ) from None
    except NewerVersion as reason:
        raise InputError(f"{path}: {reason}: update phase2hpc") from None
    except CheckpointError as reason:
        raise InputError(
            f"{path}: damaged, or not written by phase2hpc ({reason}): copy it again or train again"
        ) from None
    except OSError as error:
        raise _cannot_read(path, error) from error


def best_epoch(run: RunDirectory) -> int | None:
    """Epoch of best.pt; None where there is none, or it is of no use: then it is set aside."""
    try:
        return int(current("best", read_state(run.best)[0])["epoch"])
    except FileNotFoundError:
        return None
    except CheckpointError as reason:
        _set_aside(run.best, reason)
        return None
    except OSError as error:
        raise _cannot_read(run.best, error) from error


def rng_state() -> dict[str, Any]:
    """States of the generators of Python, numpy (the global one), torch on the CPU and, where it
    is in use, on the current CUDA device, as plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.tensor([int(key) for key in keys], dtype=torch.int64),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    # Asking every device would open a context on each, beside other ranks' work.
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the generators to what ``rng_state`` returned; CUDA's only where there is CUDA."""
    python, legacy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    keys = legacy["keys"].numpy().astype(np.uint32)
    np.random.set_state(
        (legacy["name"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"])
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _replace(path: Path, payload: Mapping[str, Any], step: int, beside: Path | None) -> None:
    """Put ``payload`` in the place of ``path``, whose content stays as ``beside`` where given."""
    try:
        partial = prepare_state(path, payload, step)
        try:
            if beside is not None:
                _set_beside(path, beside)
            partial.commit()
        finally:
            partial.discard()
    except OSError as error:
        raise refused(
            error,
            f"{path}: cannot be saved",
            then="go on with --resume",
            note="what was saved before is intact",
        ) from error


def _newest_step(run: RunDirectory) -> int | None:
    try:
        return read_step(run.checkpoint)
    except FileNotFoundError:
        return None
    except CheckpointError as reason:
        _set_aside(run.checkpoint, reason)
        return None
    except OSError as error:
        raise _cannot_read(run.checkpoint, error) from error


def _set_beside(newest: Path, older: Path) -> None:
    """Keep the newest so far under its own number's name as well; a rename where links fail."""
    try:
        os.link(newest, older)
    except OSError:
        os.replace(newest, older)


def _set_aside(path: Path, reason: CheckpointError) -> None:
    name = f"{path.name}.{reason.suffix}"
    aside, number = path.with_name(name), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{name}-{number}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return  # Another process was faster.
    except OSError as error:
        raise Phase2Error(
            f"{path}: of no use ({reason}), and cannot be set aside ({error.strerror}): move it "
            "away, then go on with --resume"
        ) from error
    log.warning("%s is of no use (%s): set aside as %s", path, reason, aside.name)


def _superseded_bests(run: RunDirectory, epoch: int, keep: int) -> list[Path]:
    older = [path for number, path in run.older_bests() if number < epoch]
    # Those of later epochs were saved before the run went back to an earlier state.
    later = [path for number, path in run.older_bests() if number >= epoch]
    return [*later, *older[keep - 1 :]]


def _remove(find: Callable[[], list[Path]]) -> None:
    """What is not needed any more; where that fails, it is no reason to stop."""
    try:
        for path in find():
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("old states cannot be removed (%s)", error)


def _cannot_read(path: Path, error: OSError) -> Phase2Error:
    return Phase2Error(f"{path}: cannot be read ({error.strerror or error})")
