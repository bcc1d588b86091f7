"""Command ``levels``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from phase2hpc.cli.options import JsonOutput


def levels(
    settings: Annotated[
        bool, typer.Option("--settings", help="Also every setting: value by level, and meaning.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """List algorithms and levels with their settings, installed plug-ins included.

    Example: phase2hpc levels --settings
    """
    from phase2hpc.cli import level_tables
    from phase2hpc.config.algorithm_registry import algorithms

    found, problems = algorithms()
    if json_output:
        import json

        records = {"levels": level_tables.level_records(found)}
        if settings:
            records["settings"] = level_tables.setting_records(found)
        print(json.dumps(records, indent=2))
    else:
        print(level_tables.level_table(found))
        if settings:
            print(f"\n{level_tables.settings_table(found)}")
    for problem in problems:
        print(f"phase2hpc: {problem}", file=sys.stderr)
