"""``doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import JsonOutput, ModelsDir


def doctor(
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="SITE", help="Site profile to compare with the cluster."),
    ] = None,
    models_dir: ModelsDir = Path("models"),
    on_node: Annotated[
        bool, typer.Option("--on-node", help="Also run a job of a few seconds on a node.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Check this machine, Slurm, a site profile and the folder of runs.

    Example: phase2hpc doctor --profile slurm-gpu --on-node
    """
    from phase2hpc.cluster.doctor.check import checks_text
    from phase2hpc.cluster.doctor.checks import run_checks
    from phase2hpc.cluster.profiles.profile import find_profile, profiles_table

    checks = run_checks(find_profile(profile) if profile else None, models_dir, on_node)
    if json_output:
        import json

        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print(checks_text(checks))
    if profile is None and not json_output:
        print(f"\nSite profiles (for --profile):\n\n{profiles_table()}")
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
