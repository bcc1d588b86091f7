"""Resource request of a job: the level's defaults, overridden by the profile, then by flags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.estimate import Estimate
from phase2hpc.config.algorithms import Resources
from phase2hpc.errors import InputError
from phase2hpc.utils.time_format import format_duration

AUTO = "auto"
# The warning before the time limit takes at most this share of a short job.
MAX_SIGNAL_SHARE = 0.25


@dataclass(frozen=True)
class ResourceOverrides:
    """Flags of ``submit``; None: the profile's, else the level's. ``time``: hours, or auto."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    time: float | str = AUTO


@dataclass(frozen=True)
class ResourceRequest:
    """Nodes, processes and GPUs per node, cores per process, memory per node (GiB), time limit
    (minutes); ``notes`` explain time and memory."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus: int
    memory_gb: float
    minutes: int
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node

    def signal_seconds(self, wanted: int) -> int:
        """Seconds of warning before the time limit, fewer for a short job."""
        return max(10, min(wanted, int(60 * self.minutes * MAX_SIGNAL_SHARE)))


def allocate(
    level: Resources, profile: Profile, wanted: ResourceOverrides, estimate: Estimate | None
) -> ResourceRequest:
    """Raises InputError for a flag that exceeds the profile's limits or contradicts another."""

    def chosen(flag: Any, field: Any, default: Any) -> Any:
        return next(value for value in (flag, field, default) if value is not None)

    nodes = chosen(wanted.nodes, profile.nodes, 1)
    # A local process sees the GPUs of the machine without a request.
    on_cluster = profile.executor == "slurm"
    gpus = chosen(wanted.gpus_per_node, profile.gpus, level.gpus if on_cluster else 0)
    if nodes > 1 and not on_cluster:
        raise InputError(f"--nodes {nodes}: a local profile runs on one machine")
    if gpus and wanted.tasks_per_node not in (None, gpus):
        raise InputError(
            f"--tasks-per-node {wanted.tasks_per_node}: must be the number of GPUs ({gpus})"
        )
    tasks = gpus or wanted.tasks_per_node or 1
    cpus = chosen(wanted.cpus, profile.cpus, _at_most(level.cpus, profile.max_cpus, tasks))
    memory, memory_note = _memory(level, profile, wanted, estimate, tasks)
    minutes, time_note = _minutes(level, profile, wanted, estimate, nodes * tasks)
    for name, value, most in (
        ("--nodes", nodes, profile.max_nodes),
        ("--gpus-per-node", gpus, profile.max_gpus_per_node),
        (f"--cpus {cpus} for {tasks} processes on a node:", cpus * tasks, profile.max_cpus),
        ("--memory", memory, profile.max_memory_gb),
    ):
        if most is not None and value > most:
            raise InputError(f"{name} {value:g} is above the profile's limit of {most:g}")
    return ResourceRequest(nodes, tasks, gpus, cpus, memory, minutes, (time_note, memory_note))


def _at_most(cpus: int, limit: int | None, tasks: int) -> int:
    return cpus if limit is None else max(1, min(cpus, limit // tasks))


def _memory(
    level: Resources,
    profile: Profile,
    wanted: ResourceOverrides,
    estimate: Estimate | None,
    tasks: int,
) -> tuple[float, str]:
    for value, origin in (
        (wanted.memory_gb, "from --memory"),
        (profile.memory_gb, "from the profile"),
    ):
        if value is not None:
            return value, f"memory {value:g} GiB a node ({origin})"
    value, note = float(level.memory_gb), "default of the level"
    if estimate is not None:
        needed = estimate.memory_gb(tasks)
        note += f"; {estimate.memory_note(tasks)}"
        if needed > value:
            value = float(math.ceil(needed))
    if profile.max_memory_gb is not None and value > profile.max_memory_gb:
        value = profile.max_memory_gb
        note += "; capped at the profile's limit"
    return value, f"memory {value:g} GiB a node ({note})"


def _minutes(
    level: Resources,
    profile: Profile,
    wanted: ResourceOverrides,
    estimate: Estimate | None,
    processes: int,
) -> tuple[int, str]:
    if wanted.time != AUTO:
        hours, note = float(wanted.time), "from --time"
        if profile.max_hours is not None and hours > profile.max_hours:
            raise InputError(
                f"--time {format_duration(3600 * hours)} is above the site's limit of "
                f"{format_duration(3600 * profile.max_hours)}: give less, a longer run continues "
                "by requeue"
            )
    elif profile.hours is not None:
        hours, note = profile.hours, "from the profile"
    elif estimate is None:
        hours, note = level.hours, "default of the level: no data for an estimate"
    else:
        hours, note = estimate.hours(processes), estimate.time_note(processes)
    if profile.max_hours is not None and hours > profile.max_hours:
        needed = format_duration(3600 * hours)
        note += f"; capped at the site's limit, {needed} needed: continues by requeue"
        hours = math.floor(60 * profile.max_hours) / 60
    minutes = max(1, math.ceil(round(60 * hours, 3)))
    return minutes, f"time {format_duration(60 * minutes)} ({note})"
