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
def runs_list(
    sort: Annotated[
        str, typer.Option("--sort", metavar="COLUMN", help="A column of --csv, or mae_PROPERTY.")
    ] = "created",
    reverse: Annotated[bool, typer.Option("--reverse", help="The largest first.")] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="CONDITION",
            help="level=std, run=a*, properties=band_gap, best_score<0.5, state!=failed; "
            "several: all of them.",
        ),
    ] = None,
    property_name: Annotated[
        str | None,
        typer.Option("--property", metavar="P", help="Show the test MAE of this property."),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write all columns as a table to share."),
    ] = None,
    json_output: JsonOutput = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """List runs with states and test errors.

    Example: phase2hpc runs list --filter level=std --sort mae_band_gap
    """
    import json

    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
    from phase2hpc.runs import run_table
    from phase2hpc.runs.listing import list_text
    from phase2hpc.runs.registry import registry
    from phase2hpc.runs.state import run_statuses

    statuses = run_statuses(registry(models_dir), SlurmScheduler())
    found = run_table.run_records(statuses)
    if property_name is not None:
        tested = run_table.tested_properties(found)
        if property_name not in tested:
            raise InputError(
                f"--property {property_name}: no run has test errors of it, only of "
                f"{', '.join(tested) or 'nothing'}"
            )
    chosen = run_table.filtered(found, filters or ())
    chosen = run_table.ordered(chosen, sort, descending=reverse)
    if csv_file is not None:
        run_table.write_csv(csv_file, chosen)
        print(f"{len(chosen)} runs: {csv_file}")
    elif json_output:
        print(json.dumps(chosen, indent=2))
    elif chosen:
        name = property_name or next(iter(run_table.tested_properties(chosen)), None)
        print(list_text(chosen, name))
    else:
        print(f"no runs in {models_dir}" + (" that meet --filter" if filters and found else ""))


@runs_app.command("show", cls=Command)
def runs_show(
    run: RunArgument,
    handoff: Annotated[
        bool, typer.Option("--handoff", help="Print the hand-off checklist as Markdown.")
    ] = False,
    json_output: JsonOutput = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Show one run or ensemble: settings, state and errors.

    Example: phase2hpc runs show RUN --handoff
    """
    import json

    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
    from phase2hpc.runs import listing
    from phase2hpc.runs.ensemble import find_ensemble
    from phase2hpc.runs.registry import RunSummary, find_run
    from phase2hpc.runs.state import run_statuses

    if handoff and json_output:
        raise InputError("--handoff and --json: give one of them")
    ensemble = find_ensemble(models_dir, run)
    members = [find_run(models_dir, run)] if ensemble is None else ensemble.members
    statuses = run_statuses(map(RunSummary.read, members), SlurmScheduler())
    if json_output:
        print(json.dumps(listing.show_json(statuses, ensemble), indent=2))
    elif handoff:
        print(listing.handoff_text(statuses, ensemble))
    else:
        print(listing.show_text(statuses, ensemble))


@runs_app.command("compare", cls=Command)
def runs_compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs, ensembles (each as one) or sweeps."),
    ],
    json_output: JsonOutput = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Compare finished runs of one store: settings, test errors, paired differences.

    Example: phase2hpc runs compare RUN1 RUN2
    """
    import json

    from phase2hpc.analysis.comparison import compare, runs_to_compare

    found = compare(runs_to_compare(models_dir, runs))
    print(json.dumps(found.as_json(), indent=2, default=str) if json_output else found.text())


runs_app.command("prune", cls=Command)(prune)
