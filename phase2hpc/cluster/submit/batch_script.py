"""Batch scripts from profile, resource request and container."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from phase2hpc.cluster.profiles.profile import ContainerSettings, Profile
from phase2hpc.cluster.submit.container import PYTHON, checked_image, python_command
from phase2hpc.cluster.submit.resources import ResourceRequest
from phase2hpc.cluster.submit.sbatch_options import parameters_of
from phase2hpc.cluster.submit.slurm_executor import JobScript

PREPARE_MINUTES = 60


def chosen_container(profile: Profile, image: str | None) -> ContainerSettings | None:
    """The profile's container, with ``image`` if one is given. Raises InputError if the image does
    not exist."""
    container = profile.container
    if image is not None:
        container = (
            container.model_copy(update={"image": image})
            if container
            else ContainerSettings(image=image)
        )
    return None if container is None else checked_image(container)


def job_script(
    profile: Profile,
    allocation: ResourceRequest,
    container: ContainerSettings | None,
    name: str,
    options: dict[str, Any],
    folders: list[Path],
) -> JobScript:
    """The batch script, without its folder. options: further sbatch options. folders: what the job
    reads and writes."""
    exports = [f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()]
    return JobScript(
        folder=Path(),
        python=_python(profile, container, allocation.gpus_per_node > 0, folders),
        python_name=_python_name(profile, container),
        parameters=parameters_of(profile, allocation, name, options),
        setup=(*profile.setup, *exports),
    )


def prepare_script(
    job: JobScript,
    folder: Path,
    profile: Profile,
    allocation: ResourceRequest,
    container: ContainerSettings | None,
    folders: list[Path],
) -> JobScript:
    """The script of the job that prepares the store for ``job``: one process, no GPU."""
    minutes = PREPARE_MINUTES
    if profile.max_hours is not None:
        minutes = min(minutes, max(1, int(60 * profile.max_hours)))
    alone = replace(allocation, nodes=1, tasks_per_node=1, gpus_per_node=0, minutes=minutes)
    parameters = {
        **job.parameters,
        "job_name": "phase2hpc-prepare",
        "nodes": 1,
        "ntasks_per_node": 1,
        "time": minutes,
        "signal_delay_s": alone.signal_seconds(profile.signal_seconds),
    }
    for key in ("gres", "gpus_per_node", "gpus_per_task"):
        parameters.pop(key, None)
    python = _python(profile, container, False, folders)
    return replace(job, folder=folder, python=python, parameters=parameters)


def _python(
    profile: Profile, container: ContainerSettings | None, gpus: bool, folders: list[Path]
) -> str:
    if container is None:
        return shlex.quote(profile.python or sys.executable)
    return python_command(
        container, profile.python or PYTHON, folders, gpus=gpus, environment=profile.environment
    )


def _python_name(profile: Profile, container: ContainerSettings | None) -> str:
    if container is None:
        return profile.python or sys.executable
    return f"{profile.python or PYTHON} in {container.image}"
