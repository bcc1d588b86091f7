"""Time limit of a job's partition as that of its profile."""

from __future__ import annotations

import logging

from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.slurm.jobs import slurm_available
from phase2hpc.cluster.slurm.partitions import partitions
from phase2hpc.errors import Phase2Error

log = logging.getLogger(__name__)


def with_partition_limit(profile: Profile) -> Profile:
    """The profile with its partition's time limit if it has none: on most sites a job above that
    limit would stay pending forever."""
    if profile.executor != "slurm" or profile.max_hours is not None or not slurm_available():
        return profile
    try:
        known = partitions()
    except Phase2Error as error:
        log.warning("cannot query the time limits of partitions (%s)", error)
        return profile
    asked = (profile.partition or "").split(",")
    chosen = [p for p in known.values() if p.name in asked or (not profile.partition and p.default)]
    limits = [partition.max_hours for partition in chosen if partition.max_hours is not None]
    return profile.model_copy(update={"max_hours": min(limits)}) if limits else profile
