"""Polling for ``status --watch`` and ``logs --follow``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.cluster.monitor.logs import LogReader, job_folder, log_file, ranks
from phase2hpc.cluster.monitor.lookup import Selection
from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.cluster.monitor.status import status_line
from phase2hpc.errors import InputError
from phase2hpc.runs.registry import RunSummary
from phase2hpc.runs.state import RunStatus, status_of

# Interval of queries to Slurm's controller, which all users of a cluster share.
SLURM_SECONDS = 10.0
LOG_SECONDS = 1.0


def watch(poll: Callable[[], tuple[str, list[RunStatus]]], *, until_over: bool) -> None:
    """Show the text that ``poll`` returns, with the runs it is about, until interrupted or, with
    ``until_over``, until all runs have ended: in place on a terminal, else a line per change.
    """
    if not sys.stdout.isatty():
        _watch_lines(poll, until_over)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    text, found = poll()
    with Live(Text(text), console=Console(), auto_refresh=False) as live:
        while not (until_over and all(s.over for s in found)):
            time.sleep(SLURM_SECONDS)
            text, found = poll()
            live.update(Text(f"{text}\n{time.strftime('%H:%M:%S')}"), refresh=True)


def _watch_lines(poll: Callable[[], tuple[str, list[RunStatus]]], until_over: bool) -> None:
    before: dict[Path, str] = {}
    while True:
        _, found = poll()
        for s in found:
            line = status_line(s)
            if before.get(s.summary.run.path) != line:
                print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
            before[s.summary.run.path] = line
        if until_over and all(s.over for s in found):
            return
        time.sleep(SLURM_SECONDS)


def log_of_run(summary: RunSummary, rank: int, *, err: bool) -> Path:
    """The log of one process of a run's newest job, which need not exist yet.

    Raises InputError if the run has none.
    """
    manifest, run = summary.manifest, summary.run
    if manifest is None:
        raise InputError(summary.problem or f"{run.manifest}: cannot be read")
    folder = job_folder(run, manifest)
    if folder is None:
        how = "in a job that phase2hpc did not submit" if manifest.job_ids else "without a job"
        raise InputError(
            f"run {run.id} was trained {how}, by process {manifest.pid} on host {manifest.host}: "
            f"it has no log file; its losses are in {run.history}"
        )
    job = manifest.job_ids[-1]
    path = log_file(folder, job, rank, err=err)
    written = ranks(folder, job)
    if written and rank not in written:
        listed = ", ".join(map(str, written))
        raise InputError(f"--rank {rank}: job {job} has logs of the ranks {listed}")
    return path


@dataclass(frozen=True)
class LogSource:
    """A log, whether it is complete, and a message about the job; '' while it runs."""

    path: Path
    complete: bool
    message: str


def follow(poll: Callable[[], LogSource], last: int | None) -> Iterator[str]:
    """Yield a log's text (its ``last`` lines), then what is appended, until it is complete.

    Messages about the job go to stderr. If ``poll`` returns another log later, that is followed.
    """
    log: LogReader | None = None
    polled, message = float("-inf"), ""
    complete = False
    while True:
        if time.monotonic() - polled > SLURM_SECONDS:
            source = poll()
            complete, polled = source.complete, time.monotonic()
            if log is None or source.path != log.path:
                log = LogReader(source.path, last if log is None else None)
            if source.message and source.message != message:
                print(f"phase2hpc: {source.message}", file=sys.stderr, flush=True)
            message = source.message
        assert log is not None
        yield from log.read()
        time.sleep(LOG_SECONDS)
        if complete:
            # A run records its end before its job writes its last lines.
            yield from log.read()
            return


def run_log(summary: RunSummary, rank: int, scheduler: SlurmScheduler, *, err: bool) -> LogSource:
    """The log of a run's newest job. Raises InputError as ``log_of_run``."""
    now = status_of(summary.run, scheduler)
    message = "" if now.state == "running" else f"run {summary.run.id} is {now.state}: {now.detail}"
    return LogSource(log_of_run(now.summary, rank, err=err), now.over, message)


def preparation_log(selection: Selection, scheduler: SlurmScheduler, *, err: bool) -> LogSource:
    """The log of the job that prepares a store."""
    first = selection.preparation
    assert first is not None
    scheduler.query(selection.reread().runs)
    job = scheduler.state(first.job)
    complete = job is None or job.over
    message = f"job {first.job_id} is {job.state if job else 'not in the queue any more'}"
    return LogSource(first.log(err=err), complete, message)
