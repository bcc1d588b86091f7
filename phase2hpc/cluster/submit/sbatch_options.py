"""sbatch options of a job, under submitit's names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from phase2hpc.cluster.profiles.fields import checked_sbatch
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.resources import ResourceRequest
from phase2hpc.cluster.submit.slurm_executor import JobScript
from phase2hpc.errors import InputError
from phase2hpc.utils.error_text import first_problem

# Fields of a profile that are sbatch options under the same name.
_IN_PROFILE = ("partition", "account", "qos", "constraint", "reservation")


def parameters_of(
    profile: Profile, allocation: ResourceRequest, name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """All sbatch options of a job, under submitit's names."""
    gpus = allocation.gpus_per_node
    of_type = f"{profile.gpu_type}:" if profile.gpu_type else ""
    requests: dict[str, dict[str, Any]] = {
        "gres": {"gres": f"gpu:{of_type}{gpus}"},
        "gpus-per-node": {"gpus_per_node": f"{of_type}{gpus}"},
        "gpus-per-task": {"gpus_per_task": f"{of_type}1"},
    }
    further: dict[str, Any] = {"requeue": True, **profile.sbatch, **options}
    if profile.reservation:
        further["reservation"] = profile.reservation
    memory = allocation.memory_gb
    values = {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": allocation.nodes,
        "ntasks_per_node": allocation.tasks_per_node,
        "cpus_per_task": allocation.cpus,
        "mem": f"{memory:g}G" if memory == int(memory) else f"{int(1024 * memory)}M",
        "time": allocation.minutes,
        "signal_delay_s": allocation.signal_seconds(profile.signal_seconds),
        "srun_args": list(profile.srun),
        "additional_parameters": further,
        **(requests[profile.gpu_request] if gpus else {}),
    }
    # submitit sets a wckey, which sites that use wckeys refuse.
    return {key: value for key, value in values.items() if value is not None} | {"wckey": None}


def with_options(profile: Profile, options: tuple[str, ...]) -> tuple[Profile, dict[str, Any]]:
    """Split ``--sbatch KEY[=VALUE]`` flags into fields of the profile and other options.

    Returns the profile with the former set, and the latter. Raises InputError.
    """
    given = dict(option.removeprefix("--").partition("=")[::2] for option in options)
    fields = {key: given.pop(key) for key in _IN_PROFILE if key in given}
    try:
        checked: dict[str, Any] = checked_sbatch(given)
        return Profile.model_validate({**profile.model_dump(exclude_unset=True), **fields}), checked
    except ValidationError as error:
        raise InputError(f"--sbatch: {first_problem(error, 'option')}") from None
    except ValueError as error:
        raise InputError(f"--sbatch: {error}") from None


def start_after(script: JobScript, ids: list[str], *, even_if_failed: bool = False) -> JobScript:
    """Make a job depend on others; it is cancelled if the dependency can never be satisfied."""
    if not ids:
        return script
    further = {**script.parameters["additional_parameters"], "kill-on-invalid-dep": "yes"}
    dependency = ":".join(["afterany" if even_if_failed else "afterok", *ids])
    parameters = {**script.parameters, "dependency": dependency, "additional_parameters": further}
    return replace(script, parameters=parameters)
