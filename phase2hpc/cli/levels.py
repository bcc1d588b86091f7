"""``levels``."""

from __future__ import annotations

from typing import Annotated

import typer


def levels(
    settings: Annotated[
        bool, typer.Option("--settings", help="Also every setting with its meaning and default.")
    ] = False,
) -> None:
    """The algorithms and levels with the settings that are in force."""
    from phase2hpc.cli.level_tables import level_table, settings_table

    print(level_table())
    if settings:
        print()
        print(settings_table())
