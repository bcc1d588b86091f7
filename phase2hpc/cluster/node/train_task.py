"""What runs on the node: importable functions with plain arguments, under Slurm and without.

The state of a run is in its directory and nowhere else: after a requeue the same call runs again
and goes on from the newest valid checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import Phase2Error, StoppedEarly
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.stop_request import StopRequest, hours_over

# How often this job was started before, by the scheduler or what stands in for it.
RESTARTS_VARIABLE = "PHASE2HPC_RESTARTS"
# Restarts in a row that find no newer checkpoint than the one before.
MAX_RESTARTS_WITHOUT_PROGRESS = 3
# A run whose own time is over is not to be requeued, so it must not say 75.
STOPPED_FOR_GOOD = 3


def train(
    run_path: str,
    hours: float | None,
    warning_seconds: int,
    new_config: str | None = None,
    accept_changes: bool = False,
) -> None:
    """Begin or go on with a submitted run.

    hours: the job's time limit, None for none; it stops, saved, by itself when the warning that
    comes so many seconds before the limit is overdue. new_config: JSON of other settings that the
    run shall go on with, changes of the result among them only if they are accepted.

    Exits with 75 where there is more to do, so that the batch script requeues the job; with the
    error's code, in one line, for an expected error.
    """
    # Caught at once: between here and the training loop are seconds of imports in which a warning
    # may come.
    with for_a_shell(), StopRequest():
        run = RunDirectory(Path(run_path))
        config = run.read_config()
        if new_config is not None:
            config = RunConfig.from_json(new_config, f"submitted settings of run {run.id}")
        own = config.runtime.max_hours
        from phase2hpc.training.runner import JobLife, go_on

        job = JobLife(_left(hours, warning_seconds), count_restart)
        try:
            go_on(run, job, config, accept_changes)
        except StoppedEarly as stopped:
            # By its words, which all ranks have in common, and not by the clock of each.
            if own is None or not str(stopped).startswith(hours_over(own)):
                raise
            if not stopped.already_reported:
                print(f"phase2hpc: {stopped} (by --max-hours: not requeued)", file=sys.stderr)
            sys.exit(STOPPED_FOR_GOOD)


def prepare(store: str, sources: list[str]) -> None:
    """Make the store that other jobs wait for; one that is there already is left as it is."""
    with for_a_shell():
        from phase2hpc.data.prepare import prepare as run_prepare
        from phase2hpc.utils.package_files import sample_source
        from phase2hpc.utils.progress import Progress

        with Progress("preparing", None, "crystals") as progress:
            read: list[str | Path] = [*sources] or [sample_source()]
            print(run_prepare(read, Path(store), progress=progress.advance), flush=True)


@contextmanager
def for_a_shell() -> Iterator[None]:
    """An expected error is one line and its exit code, as on the command line."""
    # Which Slurm sends along with SIGTERM, and of which submitit writes a warning.
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    try:
        yield
    except Phase2Error as error:
        if not error.already_reported:
            print(f"phase2hpc: {error}", file=sys.stderr, flush=True)
        # Not an Exception: submitit writes no result, and the call can run again.
        sys.exit(error.exit_code)
    finally:
        # What submitit does at the warning is not ours, and this process is at its end.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def count_restart(run: RunDirectory) -> None:
    """Note that this job starts the run; a restart by the scheduler counts.

    Raises Phase2Error where several restarts in a row found no newer checkpoint: what fails every
    time would be requeued for ever. A job of another number (a resume by hand) begins to count
    anew.
    """
    manifest = run.read_manifest()
    step = _newest_step(run)
    if int(os.environ.get(RESTARTS_VARIABLE) or 0) == 0:
        run.update_manifest(restarts_without_progress=0, step_at_start=step)
        return
    stuck = manifest.step_at_start is not None and step <= manifest.step_at_start
    in_a_row = manifest.restarts_without_progress + 1 if stuck else 0
    run.update_manifest(
        restarts=manifest.restarts + 1, restarts_without_progress=in_a_row, step_at_start=step
    )
    if in_a_row >= MAX_RESTARTS_WITHOUT_PROGRESS:
        raise Phase2Error(
            f"run {run.id}: restarted {in_a_row} times without a checkpoint later than step {step}:"
            " look at the log for what ends it, then go on with --resume"
        )


def _newest_step(run: RunDirectory) -> int:
    from phase2hpc.checkpointing.file_errors import CheckpointError
    from phase2hpc.checkpointing.file_format import read_step

    paths = [run.checkpoint, *(path for _, path in run.older_checkpoints())]
    for path in paths:
        try:
            return read_step(path)
        except (OSError, CheckpointError):
            continue
    return 0


def _left(hours: float | None, warning_seconds: int) -> float | None:
    """Hours from now until the job should have stopped: half-way between warning and limit.

    Slurm tells a job's own end, which somebody may have moved since it was submitted.
    """
    if hours is None:
        return None
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    seconds = float(end) - time.time() if end.isdigit() else 3600 * hours
    return max(seconds - warning_seconds / 2, 1.0) / 3600
