"""Checks of Slurm, and of a profile against the cluster."""

from __future__ import annotations

import math
import re
import shutil
from typing import Any

from phase2hpc.cluster.doctor.check import Check, fail, ok, warn
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm import partitions as slurm_cluster
from phase2hpc.cluster.slurm.clusters import chosen_cluster
from phase2hpc.cluster.submit.batch_script import job_script
from phase2hpc.cluster.submit.partition_limit import with_partition_limit
from phase2hpc.cluster.submit.resources import ResourceOverrides, allocate
from phase2hpc.cluster.submit.slurm_executor import JobScript
from phase2hpc.config.algorithm_registry import unknown_key
from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.time_format import format_duration

_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")


def slurm_checks(profile: Profile | None) -> list[Check]:
    """Commands, version, controller and accounting; then a profile's partitions, limits, GPUs and
    account against the cluster's, and a trial job (``sbatch --test-only``). Submits nothing.
    """
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    if missing:
        found = "no Slurm here" if len(missing) == len(_COMMANDS) else f"no {', '.join(missing)}"
        advice = "submit from a login node of the cluster, or run here with --profile local"
        return [(fail if profile else warn)("Slurm", found, advice)]
    try:
        cluster = chosen_cluster()
    except InputError as error:
        return [fail("Slurm", str(error), "set it for all commands alike")]
    try:
        version = slurm_cluster.version()
        known = slurm_cluster.partitions()
    except Phase2Error as error:
        advice = "see the site's status page or ask its administrators; try again later"
        return [fail("Slurm", str(error), advice)]
    where = f" for cluster {cluster}" if cluster else ""
    checks = [ok("Slurm", f"{version}, answers{where}; partitions {', '.join(known) or 'none'}")]
    checks.append(_accounting())
    return checks + (_profile_checks(profile, known) if profile else [])


def _accounting() -> Check:
    advice = "nothing to do: for jobs that ended a while ago, `status` then relies on their logs"
    if shutil.which("sacct") is None:
        return warn("sacct", "not installed", advice)
    try:
        enabled = slurm.accounting_enabled()
    except Phase2Error as error:
        return warn("sacct", str(error), advice)
    return ok("sacct", "answers") if enabled else warn("sacct", "no accounting here", advice)


def _profile_checks(profile: Profile, known: dict[str, slurm_cluster.Partition]) -> list[Check]:
    checks = []
    if profile.partition is None:
        names = [partition.name for partition in known.values() if partition.default]
        if not names:
            advice = f"set 'partition' to one of {', '.join(known)}"
            checks.append(fail("partition", "the cluster has no default", advice))
    else:
        names = profile.partition.split(",")
    for name in names:
        if name in known:
            checks += _partition_checks(profile, known[name])
        else:
            advice = unknown_key("partition", name, known)
            checks.append(fail("partition", f"no '{name}' on this cluster", advice))
    return [*checks, _trial(with_partition_limit(profile))]


def _partition_checks(profile: Profile, partition: slurm_cluster.Partition) -> list[Check]:
    name = f"partition {partition.name}"
    checks = []
    largest = _largest(partition)
    hours = "no limit" if partition.max_hours is None else _clock(partition.max_hours)
    size = "1 node" if len(partition.nodes) == 1 else f"{len(partition.nodes)} nodes"
    facts = f"{size}, at most {hours}, {largest}{', the default' if partition.default else ''}"
    if partition.up:
        checks.append(ok(name, f"up: {facts}"))
    else:
        checks.append(warn(name, f"down: {facts}", "jobs wait until it is up: ask your site"))
    problems = [
        *_time_problems(profile, partition),
        *_size_problems(profile, partition),
        *_gpu_problems(profile, partition),
    ]
    if profile.account and partition.accounts and profile.account not in partition.accounts:
        problems.append(
            fail("account", f"{profile.account} may not use {partition.name}",
                 f"accounts that may: {', '.join(sorted(partition.accounts))}")
        )  # fmt: skip
    return [*checks, *problems]


def _clock(hours: float) -> str:
    return format_duration(round(3600 * hours))


def _largest(partition: slurm_cluster.Partition) -> str:
    cpus = max((node.cpus for node in partition.nodes), default=0)
    memory = max((node.memory_gb for node in partition.nodes), default=0.0)
    gpus = max((node.gpus() for node in partition.nodes), default=0)
    return f"up to {cpus} cores, {memory:.1f} GiB and {gpus} GPUs a node"


def _time_problems(profile: Profile, partition: slurm_cluster.Partition) -> list[Check]:
    limit = partition.max_hours
    if limit is None:
        return []
    most = profile.max_hours
    if most is not None and most > limit:
        found = f"{_clock(most)}, above the {_clock(limit)} of {partition.name}"
        return [fail("max_hours", found, f"set 'max_hours' to {_clock(limit)} at most")]
    given = {"hours": profile.hours}
    given |= {f"hours_per_level.{level}": h for level, h in profile.hours_per_level.items()}
    advice = f"jobs ask for {_clock(limit)}, and a longer run continues by requeue"
    return [
        warn(name, f"{_clock(hours)}, above the {_clock(limit)} of {partition.name}", advice)
        for name, hours in given.items()
        if hours is not None and hours > limit
    ]


def _size_problems(profile: Profile, partition: slurm_cluster.Partition) -> list[Check]:
    if not partition.nodes:
        return []
    nodes = min(len(partition.nodes), partition.max_nodes or len(partition.nodes))
    most: dict[str, float] = {
        "nodes": nodes,
        "cpus": max(node.cpus for node in partition.nodes),
        "memory_gb": math.floor(10 * max(node.memory_gb for node in partition.nodes)) / 10,
    }
    problems = []
    for field, limit in most.items():
        value = getattr(profile, field)
        if value is not None and value > limit:
            found = f"{value:g}, and {partition.name} has {limit:g} at most"
            problems.append(fail(field, found, f"set '{field}' to {limit:g} at most"))
        asked = getattr(profile, f"max_{field}")
        if asked is not None and asked > limit:
            found = f"{asked:g}, and {partition.name} has {limit:g} at most"
            advice = f"set 'max_{field}' to {limit:g}: larger jobs are then refused at once"
            if not limit:  # nodes whose memory Slurm does not know
                advice = f"leave 'max_{field}' out"
            problems.append(warn(f"max_{field}", found, advice))
    return problems


def _gpu_problems(profile: Profile, partition: slurm_cluster.Partition) -> list[Check]:
    problems = []
    if profile.gpu_type and not any(node.gpus(profile.gpu_type) for node in partition.nodes):
        types = sorted({kind for node in partition.nodes for kind in node.gpu_types()})
        advice = f"its types: {', '.join(types) or 'none has a name: leave gpu_type out'}"
        problems.append(fail("gpu_type", f"no {profile.gpu_type} in {partition.name}", advice))
        return problems
    most = max((node.gpus(profile.gpu_type) for node in partition.nodes), default=0)
    for field, problem in (("gpus", fail), ("max_gpus_per_node", warn)):
        value = getattr(profile, field)
        if value is not None and value > most:
            found = f"{value}, and a node of {partition.name} has {most}"
            advice = "choose another partition" if most == 0 else f"set '{field}' to {most} at most"
            problems.append(problem(field, found, advice))
    return problems


def _trial(profile: Profile) -> Check:
    """Slurm's answer to the smallest job of this profile."""
    try:
        answer = slurm_cluster.expected_start(command_line(smallest_job(profile)))
    except InputError as error:
        return fail("trial job", str(error), "fields of the profile contradict each other")
    except Phase2Error as error:
        advice = "that is Slurm's reason; check account, qos, constraint and reservation"
        return fail("trial job", f"would be refused: {error}", advice)
    return ok("trial job", re.sub(r"^sbatch: Job \d+ to start", "would start", answer))


def smallest_job(profile: Profile) -> dict[str, Any]:
    """sbatch options of a job at the smallest level, as submitit names them. Raises InputError."""
    return smallest_script(profile).parameters


def smallest_script(profile: Profile) -> JobScript:
    """The batch script of that job. Raises InputError."""
    rows = [level for algorithm in ALGORITHMS.values() for level in algorithm.levels.values()]
    smallest = min((row.resources for row in rows), key=lambda r: (r.hours, r.memory_gb, r.cpus))
    request = allocate(smallest, profile, ResourceOverrides(), None)
    return job_script(profile, request, None, "doctor", {}, [])


def command_line(parameters: dict[str, Any]) -> list[str]:
    """Command-line options from submitit's parameters."""
    named = {**parameters, **parameters["additional_parameters"]}
    # Parameters of submitit that are no sbatch options.
    for name in ("additional_parameters", "signal_delay_s", "srun_args"):
        named.pop(name)
    options = {name.replace("_", "-"): value for name, value in named.items() if value is not None}
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    ]
