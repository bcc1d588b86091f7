"""Limit of the cluster on the size of job arrays."""

from __future__ import annotations

import logging
import re

from phase2hpc.cluster.slurm.command import run_slurm
from phase2hpc.cluster.slurm.jobs import slurm_available
from phase2hpc.errors import InputError, Phase2Error

log = logging.getLogger(__name__)


def refuse_large_array(count: int) -> None:
    """Raise InputError if the cluster has no arrays of so many jobs."""
    if not slurm_available():
        return
    try:
        settings = run_slurm("scontrol", "show", "config")
    except Phase2Error as error:
        log.warning("cannot query the largest size of an array (%s)", error)
        return
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", settings, re.MULTILINE)
    if match and count > int(match[1]):
        raise InputError(
            f"an array of {count} jobs: this cluster has arrays of {match[1]} at most "
            "(MaxArraySize): submit it in parts"
        )
