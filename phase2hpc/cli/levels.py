"""``levels``."""

from __future__ import annotations

from typing import Annotated

import typer


def levels(
    settings: Annotated[
        bool, typer.Option("--settings", help="Also list every setting with its default.")
    ] = False,
) -> None:
    """Show the algorithms and levels with their settings."""
    from phase2hpc.cli.level_tables import level_table, settings_table

    print(level_table())
    if settings:
        print()
        print(settings_table())
