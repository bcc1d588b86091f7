"""Resource request of a job: the level's defaults, overridden by the profile, then by flags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.estimate import Estimate
from phase2hpc.cluster.submit.exclusive_options import (
    CORES,
    GPUS,
    MEMORY,
    SbatchOption,
    further_options,
    refuse_per_gpu_without_gpus,
    rival,
)
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
    (minutes); ``notes`` explain time and memory.

    cpus, memory_gb: None if another option requests them, or none does. A memory of 0 is all of
    the node's.
    """

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus: int | None
    memory_gb: float | None
    minutes: int
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node

    def signal_seconds(self, wanted: int) -> int:
        """Seconds of warning before the time limit, fewer for a short job."""
        return max(10, min(wanted, int(60 * self.minutes * MAX_SIGNAL_SHARE)))


def allocate(
    level: Resources,
    profile: Profile,
    wanted: ResourceOverrides,
    estimate: Estimate | None,
    options: Mapping[str, str | bool] | None = None,
) -> ResourceRequest:
    """The request of a job. options: those of ``--sbatch``.

    Raises InputError for a flag that exceeds the profile's limits, and for two places that
    contradict each other.
    """

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
    of_level = _at_most(level.cpus, profile.max_cpus, tasks)
    cpus = chosen(wanted.cpus, profile.cpus, of_level)
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
    further = further_options(profile.sbatch, options or {}, gpus=gpus > 0)
    if gpus and profile.gpu_request != "none":
        place = _place(profile, ("gpus", "gpu_request"), "--gpus-per-node", wanted.gpus_per_node)
        rival(GPUS, further, place or "the level's number of GPUs")
    if gpus:
        fields = {name: getattr(profile, name) for name in ("cpu_request", "memory_request")}
        refuse_per_gpu_without_gpus(further, fields, requested=profile.gpu_request != "none")
    cores = _elsewhere(CORES, profile, ("cpus", "cpu_request"), "--cpus", wanted.cpus, further)
    if cores is not None:
        cpus = None
    memory_fields = ("memory_gb", "memory_request")
    note = _elsewhere(MEMORY, profile, memory_fields, "--memory", wanted.memory_gb, further)
    if note is None:
        # Without GPUs, the memory is not requested per GPU.
        per_gpu = profile.memory_request == "mem-per-gpu" and not gpus
        _check_memory_request("mem" if per_gpu else profile.memory_request, memory, cores)
    notes = (time_note, f"memory {note}" if note else memory_note)
    return ResourceRequest(nodes, tasks, gpus, cpus, None if note else memory, minutes, notes)


def _check_memory_request(request: str, memory: float, cores: str | None) -> None:
    """Refuse a memory per core or GPU that cannot be told. cores: what else requests them."""
    if memory == 0 and request in ("mem-per-cpu", "mem-per-gpu"):
        raise InputError(
            f"--memory 0 means all of a node's memory, and memory_request is {request}: give an "
            "amount"
        )
    if request == "mem-per-cpu" and cores is not None:
        raise InputError(
            f"memory_request mem-per-cpu divides a node's memory by its cores, and these are "
            f"{cores}: set memory_request: none, and mem-per-cpu in 'sbatch'"
        )


def _elsewhere(
    what: str,
    profile: Profile,
    fields: tuple[str, str],
    flag: str,
    given: float | None,
    further: Sequence[SbatchOption],
) -> str | None:
    """Another option that requests it, in words, or that none does; None for that of the fields.

    fields: of the amount, and of the option.
    """
    if getattr(profile, fields[1]) == "none":
        if given is not None:
            raise InputError(f"{flag} {given:g} has no effect with the profile's {fields[1]}: none")
        option = rival(what, further, None)
    else:
        option = rival(what, further, _place(profile, fields, flag, given))
    if option is not None:
        return f"{option.name}={option.value} ({option.origin})"
    return "not requested" if getattr(profile, fields[1]) == "none" else None


def _place(profile: Profile, fields: tuple[str, str], flag: str, given: float | None) -> str | None:
    """The flag or field that makes a request, None for a default."""
    if given is not None:
        return flag
    return next((f"{name} in the profile" for name in fields if _is_set(profile, name)), None)


def _is_set(profile: Profile, field: str) -> bool:
    return field in profile.model_fields_set and getattr(profile, field) is not None


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
            amount = f"{value:g} GiB a node" if value else "all of a node's"
            return value, f"memory {amount} ({origin})"
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
                + ("by requeue" if profile.requeue else "with submit --resume")
            )
    elif profile.hours is not None:
        hours, note = profile.hours, "from the profile"
    elif estimate is None:
        hours, note = level.hours, "default of the level: no data for an estimate"
    else:
        hours, note = estimate.hours(processes), estimate.time_note(processes)
    if profile.max_hours is not None and hours > profile.max_hours:
        then = "continues by requeue" if profile.requeue else "continue it with submit --resume"
        needed = format_duration(3600 * hours)
        note += f"; capped at the site's limit, {needed} needed: {then}"
        hours = math.floor(60 * profile.max_hours) / 60
    minutes = max(1, math.ceil(round(60 * hours, 3)))
    return minutes, f"time {format_duration(60 * minutes)} ({note})"
