"""Checkpoints of a run: the newest full state, older ones, and the best weights.

No older file is touched before the new one is complete on disk and read back, and files are ordered
by the step in them: whenever the writer is killed, the newest valid state is found.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from phase2hpc.checkpointing.file_errors import CheckpointError, NewerVersion
from phase2hpc.checkpointing.file_format import prepare_state, read_state, read_step
from phase2hpc.checkpointing.schema import migrate, versioned
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.os_errors import write_error

log = logging.getLogger(__name__)
T = TypeVar("T")


def save_checkpoint(run: RunDirectory, state: Mapping[str, Any], step: int, keep: int) -> None:
    """Make ``state`` the newest checkpoint and keep ``keep`` full states in all.

    Raises Phase2Error where it cannot be written (a full disk), earlier states being intact, and
    where the run holds a later step already: then another process writes this run. TypeError for
    a state that could not be read again.
    """
    previous = _valid(run.checkpoint, read_step)
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

    Files that are damaged, unreadable or of a newer version are renamed with a warning. Where no
    valid one is left: InputError if a newer version wrote one, which keeps its name, and
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
            found = migrate("checkpoint", read_state(path)[0]), step, path
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
            f"{run.path}: no valid checkpoint, only files that were set aside "
            f"({', '.join(path.name for path in aside)}): train again as a new run, or remove "
            "them to begin this one from its first step"
        )
    return None


def save_best(run: RunDirectory, payload: Mapping[str, Any], keep: int = 1) -> None:
    """Make ``payload`` best.pt and keep ``keep`` files of best weights in all, named by epoch.

    Raises Phase2Error where it cannot be written, TypeError for a payload that could not be read
    again.
    """
    epoch = payload["epoch"]
    beside = None
    if keep > 1:
        previous = best_epoch(run)
        beside = None if previous in (None, epoch) else run.best_of(previous)
    _replace(run.best, versioned("best", dict(payload)), epoch, beside)
    _remove(lambda: _superseded_bests(run, epoch, keep))


def load_best(path: Path) -> dict[str, Any]:
    """The payload of a best.pt of any version, in the current schema; tensors on the CPU.

    Raises InputError where the file is missing, damaged, not a best.pt or of a newer version.
    """
    try:
        return migrate("best", read_state(path)[0])
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
    """Epoch of best.pt; None where it is missing, or not valid and therefore set aside."""
    state = _valid(run.best, lambda path: migrate("best", read_state(path)[0]))
    return None if state is None else int(state["epoch"])


def _replace(path: Path, payload: Mapping[str, Any], step: int, beside: Path | None) -> None:
    """Write ``payload`` to ``path``; its present content stays as ``beside`` where given."""
    try:
        partial = prepare_state(path, payload, step)
        try:
            if beside is not None:
                _keep_as(path, beside)
            partial.commit()
        finally:
            partial.discard()
    except OSError as error:
        raise write_error(
            error,
            f"{path}: cannot be saved",
            then="go on with --resume",
            note="what was saved before is intact",
        ) from error


def _valid(path: Path, read: Callable[[Path], T]) -> T | None:
    """Result of ``read``; None for a missing file, or one that is not valid and so set aside."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except CheckpointError as reason:
        _set_aside(path, reason)
        return None
    except OSError as error:
        raise _cannot_read(path, error) from error


def _keep_as(newest: Path, older: Path) -> None:
    """Hard-link the newest file to its numbered name; a rename where links are not supported."""
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
            f"{path}: not valid ({reason}), and cannot be set aside ({error.strerror}): move it "
            "away, then go on with --resume"
        ) from error
    log.warning("%s: not valid (%s): set aside as %s", path, reason, aside.name)


def _superseded_bests(run: RunDirectory, epoch: int, keep: int) -> list[Path]:
    older = [path for number, path in run.older_bests() if number < epoch]
    # Later epochs are from before a rollback to an earlier state.
    later = [path for number, path in run.older_bests() if number >= epoch]
    return [*later, *older[keep - 1 :]]


def _remove(find: Callable[[], list[Path]]) -> None:
    """Delete superseded files; a failure is a warning."""
    try:
        for path in find():
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("superseded checkpoints cannot be removed (%s)", error)


def _cannot_read(path: Path, error: OSError) -> Phase2Error:
    return Phase2Error(f"{path}: cannot be read ({error.strerror or error})")
