"""``runs``: list, show and prune the runs of a models folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.command_line import Command, Group
from phase2hpc.cli.options import JsonOutput, ModelsDir, RunArgument
from phase2hpc.cli.prune import prune
from phase2hpc.errors import InputError

runs_app = typer.Typer(name="runs", cls=Group, help="Training runs.", no_args_is_help=True)


@runs_app.command("list", cls=Command)
def runs_list(json_output: JsonOutput = False, models_dir: ModelsDir = Path("models")) -> None:
    """List all runs with their states.

    Example: phase2hpc runs list
    """
    import json

    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
    from phase2hpc.runs.listing import list_text
    from phase2hpc.runs.registry import registry
    from phase2hpc.runs.state import run_statuses

    statuses = run_statuses(registry(models_dir), SlurmScheduler())
    if json_output:
        print(json.dumps([status.as_json() for status in statuses], indent=2))
    else:
        print(list_text(statuses) if statuses else f"no runs in {models_dir}")


@runs_app.command("show", cls=Command)
def runs_show(
    run: RunArgument,
    handoff: Annotated[
        bool, typer.Option("--handoff", help="Print the hand-off checklist as Markdown.")
    ] = False,
    json_output: JsonOutput = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Show one run: settings, state and errors.

    Example: phase2hpc runs show RUN --handoff
    """
    import json

    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
    from phase2hpc.runs.listing import handoff_text, show_json, show_text
    from phase2hpc.runs.registry import find_run
    from phase2hpc.runs.state import status_of

    if handoff and json_output:
        raise InputError("--handoff and --json: give one of them")
    status = status_of(find_run(models_dir, run), SlurmScheduler())
    if json_output:
        print(json.dumps(show_json(status), indent=2))
    else:
        print(handoff_text(status) if handoff else show_text(status))


@runs_app.command("compare", cls=Command)
def runs_compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories or ids.")],
    json_output: JsonOutput = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Compare test errors of finished runs of one store; of folds, their mean.

    Example: phase2hpc runs compare RUN RUN
    """
    import json

    from phase2hpc.analysis.comparison import compare, comparison_records, comparison_table
    from phase2hpc.runs.registry import find_run

    groups = compare([find_run(models_dir, run) for run in runs])
    print(
        json.dumps(comparison_records(groups), indent=1)
        if json_output
        else comparison_table(groups)
    )


runs_app.command("prune", cls=Command)(prune)
