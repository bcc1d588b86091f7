"""Tasks of training jobs: importable functions with plain arguments.

All state of a run is in its directory: after a requeue the same call runs again and resumes from
the newest valid checkpoint.
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
from phase2hpc.errors import Phase2Error, StoppedEarly, StopReason
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.stop_request import StopRequest
from phase2hpc.utils.terminal import accept_any_text
from phase2hpc.utils.time_format import format_duration

# Number of earlier starts of this job, set by the batch script or the local executor.
RESTARTS_VARIABLE = "PHASE2HPC_RESTARTS"
# Consecutive restarts without a newer checkpoint.
MAX_RESTARTS_WITHOUT_PROGRESS = 3
# A task starts this soon after its job, or a clock is wrong.
MAX_SETUP_SECONDS = 3600.0
# Exit code of a run that --max-hours stopped: with 75 the batch script would requeue it.
MAX_HOURS_EXIT_CODE = 3


def run_training(
    run_path: str,
    hours: float | None,
    warning_seconds: int,
    new_config: str | None = None,
    accept_changes: bool = False,
) -> None:
    """Start or resume a submitted run.

    hours: the job's time limit, None for none. If Slurm's warning, due ``warning_seconds`` before
    the limit, does not come, the run stops by itself. new_config: JSON of changed settings to
    resume with; accept_changes: allow changes that affect the result.

    Exits with 75 if there is more to do, so that the batch script requeues the job, and with one
    line and the error's exit code for an expected error.
    """
    # Installed first: importing torch takes seconds, in which a signal may come.
    with exit_codes(), StopRequest():
        run = RunDirectory(Path(run_path))
        config = run.read_config()
        if new_config is not None:
            config = RunConfig.from_json(new_config, f"submitted settings of run {run.id}")
        from phase2hpc.analysis.report import write_report_of
        from phase2hpc.training.runner import JobContext, continue_run

        job = JobContext(_hours_left(hours, warning_seconds), count_restart)
        try:
            continue_run(run, job, config, accept_changes, at_end=write_report_of)
        except StoppedEarly as stopped:
            if stopped.reason is not StopReason.MAX_HOURS:
                raise
            if not stopped.already_reported:
                print(f"phase2hpc: {stopped} (by --max-hours: not requeued)", file=sys.stderr)
            sys.exit(MAX_HOURS_EXIT_CODE)


def run_preparation(store: str, sources: list[str]) -> None:
    """Prepare the store that other jobs depend on; an existing one is kept."""
    with exit_codes():
        from phase2hpc.data.prepare import prepare_store
        from phase2hpc.utils.package_files import sample_source
        from phase2hpc.utils.progress import Progress

        with Progress("preparing", None, "crystals") as progress:
            read: list[str | Path] = [*sources] or [sample_source()]
            print(prepare_store(read, Path(store), progress=progress.advance), flush=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn an expected error into one line and its exit code, as on the command line."""
    accept_any_text()
    # Slurm sends it with SIGTERM, and submitit logs a warning about it.
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    try:
        yield
    except Phase2Error as error:
        if not error.already_reported:
            print(f"phase2hpc: {error}", file=sys.stderr, flush=True)
        # SystemExit is no Exception: submitit writes no result, so the call can run again.
        sys.exit(error.exit_code)
    finally:
        # submitit's own handler must not run while the process exits.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def count_restart(run: RunDirectory) -> None:
    """Record the start of a job in the manifest, and count restarts by the scheduler.

    Raises Phase2Error after MAX_RESTARTS_WITHOUT_PROGRESS restarts, since a job that fails each
    time would be requeued forever. A new job (a resume by hand) resets the count.
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
            " look in the log for the cause, then continue with --resume"
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


def _hours_left(hours: float | None, warning_seconds: int) -> float | None:
    """Hours from now until the job must have stopped: half-way between warning and limit.

    Slurm's times of the job (SLURM_JOB_START_TIME and _END_TIME, from 23.02 on) take changes of
    the time limit since the submission into account. They are of the controller's clock: where
    this node's contradicts them, the job has just begun.
    """
    if hours is None:
        return None
    limit, elapsed, now = 3600 * hours, 0.0, time.time()
    start = os.environ.get("SLURM_JOB_START_TIME", "")
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        began = float(start) if start.isdigit() else float(end) - limit
        limit, elapsed = float(end) - began, now - began
        if not 0 <= elapsed <= min(limit, MAX_SETUP_SECONDS):
            if os.environ.get("SLURM_PROCID", "0") == "0":
                _warn_of_clock(elapsed)
            elapsed = 0.0
    return max(limit - elapsed - warning_seconds / 2, 1.0) / 3600


def _warn_of_clock(elapsed: float) -> None:
    when = f"{format_duration(abs(elapsed))} {'ago' if elapsed > 0 else 'from now'}"
    print(
        f"phase2hpc: WARNING: by this node's clock the job began {when}: its time limit counts "
        "from now (phase2hpc doctor --on-node compares the clocks)",
        file=sys.stderr,
    )
