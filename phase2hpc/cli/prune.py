"""``runs prune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import JsonOutput, ModelsDir
from phase2hpc.errors import InputError


def prune(
    models_dir: ModelsDir = Path("models"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Also remove runs that failed or were interrupted.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and exit.")
    ] = False,
    json_output: JsonOutput = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove old and damaged checkpoints and leftovers, after confirmation.

    Example: phase2hpc runs prune --dry-run
    """
    from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
    from phase2hpc.runs.prune import format_size, plan, remove

    found = plan(models_dir, SlurmScheduler(), failed)
    if json_output:
        if not dry_run:
            raise InputError("--json: only with --dry-run")
        import json

        print(json.dumps(found.as_json(), indent=2))
        return
    if text := found.text():
        print(text)
    if not found.leftovers:
        print(f"nothing to remove in {models_dir}")
        return
    print(f"total {format_size(found.size)}")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(
                "nothing is removed: no terminal for a confirmation; give --yes or --dry-run"
            )
        if not typer.confirm("remove these files?"):
            print("nothing is removed")
            return
    freed, problems = remove(found)
    for line in problems:
        print(f"phase2hpc: {line}", file=sys.stderr)
    print(f"freed {format_size(freed)}")
    if problems:
        raise typer.Exit(1)
