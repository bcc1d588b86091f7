"""``runs``: all runs of a models folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import ModelsDir, RunArgument
from phase2hpc.cli.prune import prune

runs_app = typer.Typer(help="Training runs.", no_args_is_help=True)


@runs_app.command("list")
def runs_list(models_dir: ModelsDir = Path("models")) -> None:
    """All runs, read from their manifests."""
    from phase2hpc.runs.registry import list_text, registry

    runs = registry(models_dir)
    print(list_text(runs) if runs else f"no runs in {models_dir}")


@runs_app.command("show")
def runs_show(
    run: RunArgument,
    hand_over: Annotated[
        bool, typer.Option("--handoff", help="The hand-off checklist as Markdown.")
    ] = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """One run: settings, state and errors."""
    from phase2hpc.runs.registry import find_run, handoff, show

    found = find_run(models_dir, run)
    print(handoff(found) if hand_over else show(found))


@runs_app.command("compare")
def runs_compare(
    runs: Annotated[list[str], typer.Argument(help="Run directories or ids.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Test errors of finished runs of one store; of folds, mean and standard error over them."""
    import json

    from phase2hpc.analysis.comparison import compare, comparison_records, comparison_table
    from phase2hpc.runs.registry import find_run

    groups = compare([find_run(models_dir, run) for run in runs])
    print(json.dumps(comparison_records(groups), indent=1) if as_json else comparison_table(groups))


runs_app.command("prune")(prune)
