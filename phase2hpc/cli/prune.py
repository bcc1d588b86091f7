"""``runs prune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import ModelsDir
from phase2hpc.errors import InputError


def prune(
    models_dir: ModelsDir = Path("models"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Also remove runs that failed or were interrupted.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove old and damaged checkpoints and leftover files, after asking."""
    from phase2hpc.runs.prune import plan, readable, remove

    found = plan(models_dir, failed)
    if text := found.text():
        print(text)
    if not found.leftovers:
        print(f"nothing to remove in {models_dir}")
        return
    print(f"total {readable(found.size)}")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("nothing was removed: no terminal to ask on; add --yes or --dry-run")
        if not typer.confirm("remove these permanently?"):
            print("nothing was removed")
            return
    freed, problems = remove(found)
    for line in problems:
        print(f"phase2hpc: {line}", file=sys.stderr)
    print(f"freed {readable(freed)}")
    if problems:
        raise typer.Exit(1)
