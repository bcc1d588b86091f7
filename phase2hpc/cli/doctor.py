"""``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import ModelsDir


def doctor(
    profile: Annotated[
        str | None, typer.Option("--profile", help="Site profile to compare with the cluster.")
    ] = None,
    models_dir: ModelsDir = Path("models"),
    on_node: Annotated[
        bool, typer.Option("--on-node", help="Also run a short job on a node.")
    ] = False,
) -> None:
    """Check this machine, Slurm, a site profile and the folder of runs."""
    from phase2hpc.cluster.doctor.check import checks_text
    from phase2hpc.cluster.doctor.run import doctor as run_doctor
    from phase2hpc.cluster.profiles.profile import find_profile, profiles_table

    checks = run_doctor(find_profile(profile) if profile else None, models_dir, on_node)
    print(checks_text(checks))
    if profile is None:
        print(f"\nSite profiles (for --profile):\n\n{profiles_table()}")
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
