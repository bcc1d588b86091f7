"""The cluster that Slurm's commands ask, of those of one federation or database.

``SLURM_CLUSTERS`` chooses it for all of Slurm's commands. What a single ``sbatch --clusters`` chose
would be unknown to them.
"""

from __future__ import annotations

import os

from phase2hpc.errors import InputError

VARIABLE = "SLURM_CLUSTERS"


def chosen_cluster() -> str:
    """The cluster of ``SLURM_CLUSTERS``; '' for the one of this machine.

    Raises InputError where it names several, or where ``SBATCH_CLUSTERS`` names another.
    """
    name = os.environ.get(VARIABLE, "").strip()
    if name == "all" or "," in name:
        raise InputError(f"{VARIABLE}={name}: name one cluster, so that status and cancel find it")
    other = os.environ.get("SBATCH_CLUSTERS", "").strip()
    if other not in ("", name):
        raise InputError(
            f"SBATCH_CLUSTERS={other}: sbatch alone would use it; set {VARIABLE}={other} instead, "
            "which counts for status, cancel and --resume too"
        )
    return name
