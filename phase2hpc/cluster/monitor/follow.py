"""``status --watch`` and ``logs -f``: looking again and again, at Slurm not too often."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.cluster.monitor.job_states import SlurmJobStates
from phase2hpc.cluster.monitor.logs import LogReader, job_folder, log_file, ranks
from phase2hpc.cluster.monitor.lookup import Named
from phase2hpc.cluster.monitor.run_state import RunStatus, reread, run_status
from phase2hpc.cluster.monitor.status import short
from phase2hpc.errors import InputError
from phase2hpc.runs.registry import RunSummary

# Between two questions to Slurm's controller, which all users of a cluster share.
SLURM_SECONDS = 10.0
LOG_SECONDS = 1.0


def watch(look: Callable[[], tuple[str, list[RunStatus]]], *, until_over: bool) -> None:
    """Show what ``look`` says (a text, and what it is about) until the user has enough, or with
    ``until_over`` until all of it is over: on a terminal in place, else a line for each change.
    """
    if not sys.stdout.isatty():
        _watch_in_lines(look, until_over)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    text, found = look()
    with Live(Text(text), console=Console(), auto_refresh=False) as live:
        while not (until_over and all(s.over for s in found)):
            time.sleep(SLURM_SECONDS)
            text, found = look()
            live.update(Text(f"{text}\n{time.strftime('%H:%M:%S')}"), refresh=True)


def _watch_in_lines(look: Callable[[], tuple[str, list[RunStatus]]], until_over: bool) -> None:
    before: dict[Path, str] = {}
    while True:
        _, found = look()
        for s in found:
            line = short(s)
            if before.get(s.summary.run.path) != line:
                print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
            before[s.summary.run.path] = line
        if until_over and all(s.over for s in found):
            return
        time.sleep(SLURM_SECONDS)


def log_of(summary: RunSummary, rank: int, *, err: bool) -> Path:
    """One stream of one process of a run's newest job, there or not yet.

    Raises InputError where the run has none.
    """
    manifest, run = summary.manifest, summary.run
    if manifest is None:
        raise InputError(summary.problem or f"{run.manifest}: cannot be read")
    folder = job_folder(run, manifest)
    if folder is None:
        how = "in a job that phase2hpc did not submit" if manifest.job_ids else "without a job"
        raise InputError(
            f"run {run.id} was trained {how}, by process {manifest.pid} on host {manifest.host}: "
            f"its output went where that was started; its losses are in {run.history}"
        )
    job = manifest.job_ids[-1]
    path = log_file(folder, job, rank, err=err)
    written = ranks(folder, job)
    if written and rank not in written:
        there = ", ".join(map(str, written))
        raise InputError(f"--rank {rank}: of job {job} there are logs of the ranks {there}")
    return path


@dataclass(frozen=True)
class Followed:
    """A log, whether more may come, and in words what is waited for; '' while it runs."""

    path: Path
    over: bool
    words: str


def follow(look: Callable[[], Followed], last: int | None) -> Iterator[str]:
    """A log's text (its ``last`` lines), and then what comes, until it is over; what it waits for
    is said on stderr. Another log that ``look`` names later is followed instead."""
    log: LogReader | None = None
    asked, said = -SLURM_SECONDS, ""
    over = False
    while True:
        if time.monotonic() - asked > SLURM_SECONDS:
            now = look()
            over, asked = now.over, time.monotonic()
            if log is None or now.path != log.path:
                log = LogReader(now.path, last if log is None else None)
            if now.words and now.words != said:
                print(f"phase2hpc: {now.words}", file=sys.stderr, flush=True)
            said = now.words
        assert log is not None
        yield from log.read()
        time.sleep(LOG_SECONDS)
        if over:
            # The last words follow upon the run's own account of its end.
            yield from log.read()
            return


def followed_run(summary: RunSummary, rank: int, view: SlurmJobStates, *, err: bool) -> Followed:
    """Raises InputError as ``log_of``."""
    summary = reread(summary)
    view.ask([summary])
    now = run_status(summary, view)
    words = "" if now.state == "running" else f"run {summary.run.id} is {now.state}: {now.about}"
    return Followed(log_of(summary, rank, err=err), now.over, words)


def followed_preparation(named: Named, view: SlurmJobStates, *, err: bool) -> Followed:
    """The log of the job that prepares a store."""
    assert named.preparation is not None
    first = named.preparation
    view.ask(named.again().runs)
    state = view.state(first.job)
    over = state is None or state.over
    words = f"job {first.job.id} is {state.state if state else 'over'}"
    return Followed(first.log(err=err), over, words)
