"""What a job asks the scheduler for: the level's resources, the profile's on top, flags on top."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.estimate import Estimate
from phase2hpc.config.algorithms import Resources
from phase2hpc.errors import InputError

AUTO = "auto"
# Of a short job's time the warning before its end takes at most this share.
SIGNAL_SHARE = 0.25


@dataclass(frozen=True)
class ResourceOverrides:
    """Flags of ``submit``; None: the profile's, else the level's. ``time`` in hours, or auto."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    time: float | str = AUTO


@dataclass(frozen=True)
class ResourceRequest:
    """What is asked for: nodes, processes and GPUs of a node, cores of a process, memory of a
    node (GiB), minutes; and ``notes``, how time and memory came about."""

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
        """Seconds of warning before the limit that leave a short job time to work."""
        return max(10, min(wanted, int(60 * self.minutes * SIGNAL_SHARE)))


def allocate(
    level: Resources, profile: Profile, wanted: ResourceOverrides, estimate: Estimate | None
) -> ResourceRequest:
    """Raises InputError for a flag above the profile's limit, or one that makes no sense."""

    def chosen(flag: Any, field: Any, default: Any) -> Any:
        return next(value for value in (flag, field, default) if value is not None)

    nodes = chosen(wanted.nodes, profile.nodes, 1)
    # Here, without Slurm, what the machine has is seen anyway.
    on_cluster = profile.executor == "slurm"
    gpus = chosen(wanted.gpus_per_node, profile.gpus, level.gpus if on_cluster else 0)
    if nodes > 1 and not on_cluster:
        raise InputError(f"--nodes {nodes}: a local profile has this machine only")
    if gpus and wanted.tasks_per_node not in (None, gpus):
        raise InputError(
            f"--tasks-per-node {wanted.tasks_per_node}: with GPUs it is their number ({gpus})"
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
    for value, origin in ((wanted.memory_gb, "by --memory"), (profile.memory_gb, "the profile's")):
        if value is not None:
            return value, f"memory {value:g} GiB a node ({origin})"
    value, note = float(level.memory_gb), "the level's"
    if estimate is not None:
        needed = estimate.memory_gb(tasks)
        note += f"; {estimate.memory_note(tasks)}"
        if needed > value:
            value = float(math.ceil(needed))
    if profile.max_memory_gb is not None and value > profile.max_memory_gb:
        value = profile.max_memory_gb
        note += "; held to the profile's limit"
    return value, f"memory {value:g} GiB a node ({note})"


def _minutes(
    level: Resources,
    profile: Profile,
    wanted: ResourceOverrides,
    estimate: Estimate | None,
    processes: int,
) -> tuple[int, str]:
    if wanted.time != AUTO:
        hours, note = float(wanted.time), "by --time"
        if profile.max_hours is not None and hours > profile.max_hours:
            raise InputError(
                f"--time {hours:g} h is above the site's limit of {profile.max_hours:g} h: a "
                "longer run goes on by requeue, so ask for less"
            )
    elif profile.hours is not None:
        hours, note = profile.hours, "the profile's"
    elif estimate is None:
        hours, note = level.hours, "the level's: there is nothing to estimate from"
    else:
        hours, note = estimate.hours(processes), estimate.time_note(processes)
    if profile.max_hours is not None and hours > profile.max_hours:
        note += f"; {hours:.3g} h are above the site's limit: the run goes on by requeue"
        hours = math.floor(60 * profile.max_hours) / 60
    minutes = max(1, math.ceil(round(60 * hours, 3)))
    return minutes, f"time {clock(minutes)} ({note})"


def clock(minutes: int) -> str:
    """Minutes as D-HH:MM:00, the way Slurm writes them."""
    days, rest = divmod(minutes, 24 * 60)
    return (f"{days}-" if days else "") + f"{rest // 60:02d}:{rest % 60:02d}:00"
