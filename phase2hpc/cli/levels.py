"""Command ``levels``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def levels(
    settings: Annotated[
        bool, typer.Option("--settings", help="Also every setting with its default and meaning.")
    ] = False,
) -> None:
    """List algorithms and levels with their settings, installed plug-ins included.

    Example: phase2hpc levels --settings
    """
    from phase2hpc.cli.level_tables import level_table, settings_table
    from phase2hpc.config.algorithm_registry import algorithms

    found, problems = algorithms()
    print(level_table(found))
    if settings:
        print()
        print(settings_table(found))
    for problem in problems:
        print(f"phase2hpc: {problem}", file=sys.stderr)
