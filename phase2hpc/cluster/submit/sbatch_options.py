"""The sbatch options of a job, as submitit names them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phase2hpc.cluster.profiles.fields import checked_sbatch
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.resources import ResourceRequest
from phase2hpc.cluster.submit.slurm_executor import JobScript
from phase2hpc.errors import InputError
from phase2hpc.runs.registry import find_run
from phase2hpc.utils.error_text import first_problem

# Fields of a profile that are sbatch options as they stand.
_IN_PROFILE = ("partition", "account", "qos", "constraint", "reservation")
_JOB_ID = re.compile(r"\d+(_\d+)?")


def parameters_of(
    profile: Profile, allocation: ResourceRequest, name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """sbatch options as submitit names them."""
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
    # submitit's own wckey is refused by sites that know wckeys.
    return {key: value for key, value in values.items() if value is not None} | {"wckey": None}


def with_options(profile: Profile, options: tuple[str, ...]) -> tuple[Profile, dict[str, Any]]:
    """``--sbatch KEY=VALUE`` flags, or KEY alone: the profile with those that have a field in it,
    and the others. Raises InputError."""
    given = dict(option.removeprefix("--").partition("=")[::2] for option in options)
    fields = {key: given.pop(key) for key in _IN_PROFILE if key in given}
    try:
        checked: dict[str, Any] = checked_sbatch(given)
        return Profile.model_validate({**profile.model_dump(exclude_unset=True), **fields}), checked
    except ValidationError as error:
        raise InputError(f"--sbatch: {first_problem(error, 'option')}") from None
    except ValueError as error:
        raise InputError(f"--sbatch: {error}") from None


def start_after(
    script: JobScript, ids: list[str], *, however_they_ended: bool = False
) -> JobScript:
    """Start after these jobs have ended well; a job that never can is not left waiting."""
    if not ids:
        return script
    further = {**script.parameters["additional_parameters"], "kill-on-invalid-dep": "yes"}
    dependency = ":".join(["afterany" if however_they_ended else "afterok", *ids])
    parameters = {**script.parameters, "dependency": dependency, "additional_parameters": further}
    return replace(script, parameters=parameters)


def waited_for(after: str | None, models_dir: Path) -> list[str]:
    """The job ids of ``--after``: ids, or runs, whose newest job is meant; several with commas."""
    ids = []
    for name in (part.strip() for part in (after or "").split(",")):
        if not name:
            continue
        if not _JOB_ID.fullmatch(name):
            run = find_run(models_dir, name)
            known = [job for job in run.read_manifest().job_ids if _JOB_ID.fullmatch(job)]
            if not known:
                raise InputError(f"--after {name}: this run has no Slurm job to wait for")
            name = known[-1]
        ids.append(name)
    return ids
