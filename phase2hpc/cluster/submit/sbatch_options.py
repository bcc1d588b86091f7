"""sbatch options of a job, under submitit's names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from phase2hpc.cluster.profiles.fields import checked_sbatch
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.exclusive_options import further_options
from phase2hpc.cluster.submit.resources import ResourceRequest
from phase2hpc.cluster.submit.slurm_executor import JobScript
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_problem

# Fields of a profile that are sbatch options under the same name.
# Flags of the command line that set the profile's field of the same name.
FIELD_FLAGS = ("partition", "account", "qos", "constraint", "reservation", "job_name")
_IN_PROFILE = (
    "partition", "account", "qos", "constraint", "reservation", "job_name", "dependency",
)  # fmt: skip


def parameters_of(
    profile: Profile,
    allocation: ResourceRequest,
    name: str,
    options: Mapping[str, str | bool],
) -> dict[str, Any]:
    """All sbatch options of a job, under submitit's names. options: those of ``--sbatch``."""
    gpus = allocation.gpus_per_node > 0
    further: dict[str, str | bool] = {
        option.name: option.value for option in further_options(profile.sbatch, options, gpus=gpus)
    }
    further["requeue" if profile.requeue else "no-requeue"] = True
    if profile.reservation:
        further["reservation"] = profile.reservation
    requested = {**_gpus(profile, allocation), **_cores(profile, allocation)}
    requested |= _memory(profile, allocation)
    if gres := [str(part["gres"]) for part in (requested, further) if "gres" in part]:
        requested["gres"] = ",".join(gres)
    further |= requested
    values = {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "dependency": profile.dependency,
        "nodes": allocation.nodes,
        "ntasks_per_node": allocation.tasks_per_node,
        "time": allocation.minutes,
        "signal_delay_s": allocation.signal_seconds(profile.signal_seconds),
        "srun_args": list(profile.srun),
        "additional_parameters": further,
    }
    # submitit sets a wckey, which sites that use wckeys refuse.
    return {key: value for key, value in values.items() if value is not None} | {"wckey": None}


def _gpus(profile: Profile, allocation: ResourceRequest) -> dict[str, str]:
    count = allocation.gpus_per_node
    if not count or profile.gpu_request == "none":
        return {}
    of_type = f"{profile.gpu_type}:" if profile.gpu_type else ""
    return {
        "gres": {"gres": f"gpu:{of_type}{count}"},
        "gpus": {"gpus": f"{of_type}{allocation.nodes * count}"},
        "gpus-per-node": {"gpus-per-node": f"{of_type}{count}"},
        "gpus-per-task": {"gpus-per-task": f"{of_type}1"},
    }[profile.gpu_request]


def _cores(profile: Profile, allocation: ResourceRequest) -> dict[str, str]:
    if allocation.cpus is None:
        return {}
    # A process has one GPU.
    per_gpu = profile.cpu_request == "cpus-per-gpu" and allocation.gpus_per_node > 0
    return {"cpus-per-gpu" if per_gpu else "cpus-per-task": str(allocation.cpus)}


def _memory(profile: Profile, allocation: ResourceRequest) -> dict[str, str]:
    """The memory of a node, as the site has it requested; without GPUs, not per GPU."""
    if allocation.memory_gb is None:
        return {}
    request, parts = profile.memory_request, 1
    if request == "mem-per-cpu" and allocation.cpus is not None:
        parts = allocation.tasks_per_node * allocation.cpus
    elif request == "mem-per-gpu" and allocation.gpus_per_node:
        parts = allocation.gpus_per_node
    else:
        request = "mem"
    megabytes = math.ceil(1024 * allocation.memory_gb / parts)
    whole = megabytes % 1024 == 0
    amount = f"{megabytes // 1024}G" if whole else f"{megabytes}M"
    return {request: amount}


def with_options(
    profile: Profile, options: Sequence[str], flags: Mapping[str, str | None] = MappingProxyType({})
) -> tuple[Profile, dict[str, str | bool]]:
    """Split ``--sbatch KEY[=VALUE]`` flags into fields of the profile and other options.

    flags: fields that have flags of their own. Returns the profile with all these fields set, and
    the other options. Raises InputError.
    """
    given: dict[str, str] = {}
    for option in options:
        key, _, value = option.removeprefix("--").partition("=")
        if given.setdefault(key.replace("-", "_"), value) != value:
            raise InputError(f"--sbatch {key}: given twice")
    fields: dict[str, Any] = {key: given.pop(key) for key in _IN_PROFILE if key in given}
    for key, requeue in (("requeue", True), ("no_requeue", False)):
        if given.pop(key, None) is not None:
            fields["requeue"] = requeue
    own = {field: text for field, text in flags.items() if text is not None}
    for field in own.keys() & fields.keys():
        name = field.replace("_", "-")
        raise InputError(f"--{name} and --sbatch {name}: give only one of them")
    try:
        checked: dict[str, str | bool] = checked_sbatch(given)
    except ValueError as error:
        raise InputError(f"--sbatch: {error}") from None
    return _with_fields(_with_fields(profile, fields, "--sbatch: option"), own, "flag"), checked


def _with_fields(profile: Profile, fields: Mapping[str, Any], noun: str) -> Profile:
    try:
        return Profile.model_validate({**profile.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        raise InputError(first_problem(error, noun)) from None


def start_after(script: JobScript, ids: list[str], *, even_if_failed: bool = False) -> JobScript:
    """Make a job depend on others; it is cancelled if the dependency can never be satisfied."""
    if not ids:
        return script
    further = {**script.parameters["additional_parameters"], "kill-on-invalid-dep": "yes"}
    dependency = ":".join(["afterany" if even_if_failed else "afterok", *ids])
    if own := script.parameters.get("dependency"):
        dependency += f",{own}"
    parameters = {**script.parameters, "dependency": dependency, "additional_parameters": further}
    return replace(script, parameters=parameters)
