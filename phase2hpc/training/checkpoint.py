"""Checkpoints of a run: the newest full state, older ones beside it, and the best weights.

Nothing old is touched before the new file is whole on disk, and the order is by the step in the
files: whenever the writer is killed, the newest valid state is found.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs import RunDirectory
from phase2hpc.training.statefile import Damaged, prepare_state, read_state, read_step

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
    try:
        partial = prepare_state(run.checkpoint, state, step)
        try:
            if previous is not None and previous < step:
                _set_beside(run.checkpoint, run.checkpoint_of(previous))
            partial.commit()
        finally:
            partial.discard()
    except OSError as error:
        raise _cannot_write(run.checkpoint, error) from error
    for _, old in run.older_checkpoints()[keep - 1 :]:
        try:
            old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("old checkpoint %s cannot be removed (%s)", old, error.strerror)


def load_newest(run: RunDirectory) -> tuple[dict[str, Any], int, Path] | None:
    """(state, step, file) of the newest valid checkpoint; None where the run never had one.

    A damaged file is renamed ``*.damaged`` with a warning. Raises Phase2Error if there were
    checkpoints and all are damaged, InputError if a newer version wrote one.
    """
    candidates = []
    for path in (run.checkpoint, *(path for _, path in run.older_checkpoints())):
        try:
            candidates.append((read_step(path), path))
        except FileNotFoundError:
            continue
        except Damaged as reason:
            _set_aside(path, reason)
        except OSError as error:
            raise _cannot_read(path, error) from error
    # Sorting keeps checkpoint.pt first among files of the same step.
    for step, path in sorted(candidates, key=lambda found: -found[0]):
        try:
            state, _ = read_state(path)
            return state, step, path
        except Damaged as reason:
            _set_aside(path, reason)
        except OSError as error:
            raise _cannot_read(path, error) from error
    damaged = run.damaged_checkpoints()
    if damaged:
        raise Phase2Error(
            f"{run.path}: no valid checkpoint, only damaged ones "
            f"({', '.join(path.name for path in damaged)}): train again as a new run, or remove "
            "them to begin this one from its first step"
        )
    return None


def save_best(run: RunDirectory, payload: Mapping[str, Any]) -> None:
    """Replace best.pt by ``payload``. Raises Phase2Error where it cannot be written, TypeError
    for a payload that could not be read back."""
    try:
        # Only one best.pt is kept, so no step is needed to tell it from another.
        partial = prepare_state(run.best, payload, step=0)
        try:
            partial.commit()
        finally:
            partial.discard()
    except OSError as error:
        raise _cannot_write(run.best, error) from error


def load_best(path: Path) -> dict[str, Any]:
    """The payload of a best.pt, tensors on the CPU.

    Raises InputError if there is no such file, a newer version wrote it, or it is damaged.
    """
    try:
        return read_state(path)[0]
    except FileNotFoundError:
        raise InputError(
            f"{path}: not there; the run has no trained weights yet (they come with the first "
            "validation)"
        ) from None
    except Damaged as reason:
        raise InputError(
            f"{path}: damaged, or not written by phase2hpc ({reason}): copy it again or train again"
        ) from None
    except OSError as error:
        raise _cannot_read(path, error) from error


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


def _newest_step(run: RunDirectory) -> int | None:
    try:
        return read_step(run.checkpoint)
    except FileNotFoundError:
        return None
    except Damaged as reason:
        _set_aside(run.checkpoint, reason)
        return None
    except OSError as error:
        raise _cannot_read(run.checkpoint, error) from error


def _set_beside(newest: Path, older: Path) -> None:
    """Keep the newest so far under its own step's name as well; a rename where links fail."""
    try:
        os.link(newest, older)
    except OSError:
        os.replace(newest, older)


def _set_aside(path: Path, reason: Damaged) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return  # another rank was faster
    log.warning("checkpoint %s is damaged (%s): set aside as %s", path, reason, aside.name)


def _cannot_write(path: Path, error: OSError) -> Phase2Error:
    return Phase2Error(
        f"{path}: cannot be saved ({error.strerror or error}); what was saved before is intact: "
        "make room, then go on with --resume"
    )


def _cannot_read(path: Path, error: OSError) -> Phase2Error:
    return Phase2Error(f"{path}: cannot be read ({error.strerror or error})")
