"""``doctor``: all checks of this machine, its Slurm, a profile and a folder."""

from __future__ import annotations

from pathlib import Path

from phase2hpc.cluster.doctor.algorithms import algorithm_checks
from phase2hpc.cluster.doctor.check import Check
from phase2hpc.cluster.doctor.container import container_checks
from phase2hpc.cluster.doctor.environment import package_checks, python_check, torch_checks
from phase2hpc.cluster.doctor.filesystem import folder_checks
from phase2hpc.cluster.doctor.node import node_checks
from phase2hpc.cluster.doctor.shell_variables import shell_variable_checks
from phase2hpc.cluster.doctor.slurm import slurm_checks
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.errors import InputError


def run_checks(profile: Profile | None, folder: Path, on_node: bool = False) -> list[Check]:
    """All checks. ``folder`` is that of the runs, and need not exist.

    Leaves nothing behind, and submits nothing but, with ``on_node``, a job of a few seconds. Raises
    InputError for ``on_node`` without a Slurm profile.
    """
    if on_node and (profile is None or profile.executor == "local"):
        raise InputError("--on-node: give a Slurm profile with --profile")
    checks = [python_check(), *package_checks(), *torch_checks(), *algorithm_checks()]
    checks += container_checks(profile)
    checks += folder_checks(folder)
    if profile is None or profile.executor == "slurm":
        checks += slurm_checks(profile)
        checks += shell_variable_checks(profile)
    if on_node and profile is not None:
        checks += node_checks(profile, folder)
    return checks
