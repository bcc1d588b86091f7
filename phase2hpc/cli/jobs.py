"""``status``, ``logs`` and ``cancel``: jobs and their runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phase2hpc.cli.options import ModelsDir
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.cluster.monitor.run_state import RunStatus

Name = Annotated[
    str, typer.Argument(help="Run directory or id, ensemble, job or array (12, 12_3).",
                        metavar="RUN|JOB")
]  # fmt: skip


def status(
    name: Annotated[
        str | None, typer.Argument(help="One run, ensemble or job in detail.", metavar="[RUN|JOB]")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every 10 s, until Ctrl-C or the run's end.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All runs, those of an ensemble one by one.")
    ] = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Where runs stand: pending, running, stopped, finished, failed or dead, and why."""
    from phase2hpc.cluster.monitor import follow as following
    from phase2hpc.cluster.monitor.job_states import SlurmJobStates
    from phase2hpc.cluster.monitor.lookup import find, run_statuses
    from phase2hpc.cluster.monitor.status import named_text, overview
    from phase2hpc.runs.registry import registry

    view = SlurmJobStates()
    named = find(models_dir, name) if name is not None else None

    def look() -> tuple[str, list[RunStatus]]:
        runs = tuple(registry(models_dir)) if named is None else named.again().runs
        found = run_statuses(runs, view)
        if named is not None:
            return named_text(named, found, view), found
        return overview(found, view, everything) if found else f"no runs in {models_dir}", found

    if not watch:
        print(look()[0])
        return
    try:
        following.watch(look, until_over=named is not None)
    except KeyboardInterrupt:
        return  # That is how watching ends.


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes, until the run's end.")
    ] = False,
    err: Annotated[bool, typer.Option("--err", help="stderr instead of stdout.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="Only so many from the end.")
    ] = None,
    rank: Annotated[
        int, typer.Option(min=0, help="Of which process, where there are several.")
    ] = 0,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """What a run's newest job has written, over all its restarts."""
    from phase2hpc.cluster.monitor import follow as following
    from phase2hpc.cluster.monitor.job_states import SlurmJobStates
    from phase2hpc.cluster.monitor.logs import LogReader
    from phase2hpc.cluster.monitor.lookup import find

    named, view = find(models_dir, name), SlurmJobStates()
    if named.preparation is None and len(named.runs) != 1:
        ids = ", ".join(summary.run.id for summary in named.runs[:8])
        raise InputError(f"{name}: {len(named.runs)} runs have logs: name one of {ids}")

    def look() -> following.Followed:
        if named.preparation is not None:
            return following.followed_preparation(named, view, err=err)
        return following.followed_run(named.runs[0], rank, view, err=err)

    if follow:
        texts = following.follow(look, lines)
    elif named.preparation is not None:
        texts = LogReader(named.preparation.log(err=err), lines).read()
    else:
        texts = LogReader(following.log_of(named.runs[0], rank, err=err), lines).read()
    written = False
    try:
        for text in texts:
            sys.stdout.write(text)
            sys.stdout.flush()
            written = True
    except KeyboardInterrupt:
        return  # That is how following ends.
    if not written:
        other = "stdout: leave --err out" if err else "stderr: --err"
        print(f"phase2hpc: nothing here (yet); the other stream is {other}", file=sys.stderr)


def cancel(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """End jobs so that they stay ended; shows which, and asks. Training saves its state."""
    from phase2hpc.cluster.monitor.cancel import plan
    from phase2hpc.cluster.monitor.lookup import find

    chosen = plan(find(models_dir, name), name)
    for line in chosen.left:
        print(line)
    if not chosen.jobs:
        return
    print(chosen.text())
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("nothing is cancelled: no terminal to ask on; say --yes")
        if not typer.confirm("cancel?"):
            print("nothing is cancelled")
            return
    chosen.carry_out()
    count = len(chosen.jobs)
    print("cancelled" if count == 1 else f"{count} jobs cancelled")
    for line in chosen.after():
        print(line)
