"""``status``, ``logs`` and ``cancel``."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phase2hpc.cli.options import JsonOutput, ModelsDir
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.runs.state import RunStatus

Name = Annotated[
    str,
    typer.Argument(
        help="Run directory or id, ensemble, job, array or array element.", metavar="RUN|JOB"
    ),
]


def status(
    name: Annotated[
        str | None, typer.Argument(help="One run, ensemble or job in detail.", metavar="RUN|JOB")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every 10 s until Ctrl-C or the run's end.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show all runs, and each member of an ensemble.")
    ] = False,
    json_output: JsonOutput = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Show the state of runs and their jobs, and why a run ended.

    Example: phase2hpc status --watch
    """
    from phase2hpc.cluster.monitor import follow as following
    from phase2hpc.cluster.monitor.lookup import select
    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
    from phase2hpc.cluster.monitor.status import overview, selection_text
    from phase2hpc.runs.registry import registry
    from phase2hpc.runs.state import run_statuses

    if watch and json_output:
        raise InputError("--watch and --json: give one of them")
    scheduler = SlurmScheduler()
    selection = select(models_dir, name) if name is not None else None

    def poll() -> tuple[str, list[RunStatus]]:
        runs = registry(models_dir) if selection is None else selection.reread().runs
        found = run_statuses(runs, scheduler)
        if selection is not None:
            return selection_text(selection, found, scheduler), found
        if not found:
            return f"no runs in {models_dir}", found
        return overview(found, scheduler, everything), found

    if json_output:
        import json

        print(json.dumps([status.as_json() for status in poll()[1]], indent=2))
    elif not watch:
        print(poll()[0])
    else:
        # Ctrl-C is the way to end it.
        with suppress(KeyboardInterrupt):
            following.watch(poll, until_over=selection is not None)


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the log until the run ends.")
    ] = False,
    err: Annotated[bool, typer.Option("--err", help="stderr instead of stdout.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, metavar="N", help="Only the last N lines.")
    ] = None,
    rank: Annotated[
        int, typer.Option(min=0, metavar="N", help="Rank of the process, for jobs with several.")
    ] = 0,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Show the log of a run's newest job, over all its restarts.

    Example: phase2hpc logs RUN --follow
    """
    from phase2hpc.cluster.monitor import follow as following
    from phase2hpc.cluster.monitor.logs import LogReader
    from phase2hpc.cluster.monitor.lookup import select
    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler

    selection, scheduler = select(models_dir, name), SlurmScheduler()
    if selection.preparation is None and len(selection.runs) != 1:
        ids = ", ".join(summary.run.id for summary in selection.runs[:8])
        raise InputError(f"{name}: {len(selection.runs)} runs have logs: name one of {ids}")

    def poll() -> following.LogSource:
        if selection.preparation is not None:
            return following.preparation_log(selection, scheduler, err=err)
        return following.run_log(selection.runs[0], rank, scheduler, err=err)

    if follow:
        texts = following.follow(poll, lines)
    elif selection.preparation is not None:
        texts = LogReader(selection.preparation.log(err=err), lines).read()
    else:
        texts = LogReader(following.log_of_run(selection.runs[0], rank, err=err), lines).read()
    written = False
    try:
        for text in texts:
            sys.stdout.write(text)
            sys.stdout.flush()
            written = True
    except KeyboardInterrupt:
        return  # the way to end it
    if not written:
        other = "stdout (without --err)" if err else "stderr (--err)"
        print(f"phase2hpc: the log is empty so far; see also {other}", file=sys.stderr)


def cancel(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Cancel jobs without requeue, after confirmation. Training saves its state.

    Example: phase2hpc cancel RUN
    """
    from phase2hpc.cluster.monitor.cancel import plan
    from phase2hpc.cluster.monitor.lookup import select

    chosen = plan(select(models_dir, name), name)
    for line in chosen.skipped:
        print(line)
    if not chosen.jobs:
        return
    print(chosen.text())
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("nothing is cancelled: no terminal for a confirmation; give --yes")
        if not typer.confirm("cancel?"):
            print("nothing is cancelled")
            return
    chosen.execute()
    count = len(chosen.jobs)
    print("cancelled" if count == 1 else f"{count} jobs cancelled")
    for line in chosen.resume_hints():
        print(line)
