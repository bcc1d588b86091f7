"""Batch scripts from profile, resource request and container."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from phase2hpc.cluster.profiles.profile import ContainerSettings, Profile
from phase2hpc.cluster.submit.container import PYTHON, checked_image, python_command
from phase2hpc.cluster.submit.estimate import Estimate
from phase2hpc.cluster.submit.resources import ResourceOverrides, ResourceRequest, allocate
from phase2hpc.cluster.submit.sbatch_options import parameters_of
from phase2hpc.cluster.submit.slurm_executor import JobScript
from phase2hpc.config.algorithms import Resources

PREPARE_MINUTES = 60


def chosen_container(
    profile: Profile, image: str | None, *, required: bool = True
) -> ContainerSettings | None:
    """The profile's container, with ``image`` if one is given. Raises InputError if the image is
    none, or does not exist although it is required."""
    container = profile.container
    if image is not None:
        container = (
            container.model_copy(update={"image": image})
            if container
            else ContainerSettings(image=image)
        )
    return None if container is None else checked_image(container, required=required)


def job_script(
    profile: Profile,
    allocation: ResourceRequest,
    container: ContainerSettings | None,
    name: str,
    options: Mapping[str, str | bool],
    folders: list[Path],
) -> JobScript:
    """The batch script, without its folder. name: of the job, after the profile's or phase2hpc.
    options: those of ``--sbatch``. folders: what the job reads and writes."""
    name = "-".join(part for part in (profile.job_name or "phase2hpc", name) if part)
    exports = [f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()]
    return JobScript(
        folder=Path(),
        python=_python(profile, container, allocation.gpus_per_node > 0, folders),
        python_name=_python_name(profile, container),
        parameters=parameters_of(profile, allocation, name, options),
        setup=(*profile.setup, *exports),
        teardown=profile.teardown,
        array_parallelism=profile.array_parallelism,
        requeue=profile.requeue,
    )


def prepare_script(
    profile: Profile,
    level: Resources,
    wanted: ResourceOverrides,
    estimate: Estimate | None,
    container: ContainerSettings | None,
    options: Mapping[str, str | bool],
    folders: list[Path],
) -> JobScript:
    """The script of a job that prepares a store, without its folder: one process, no GPU.

    level, wanted, estimate: of the job that trains.
    """
    minutes = PREPARE_MINUTES
    if profile.max_hours is not None:
        minutes = min(minutes, max(1, int(60 * profile.max_hours)))
    alone = replace(wanted, nodes=1, tasks_per_node=1, gpus_per_node=0, time=minutes / 60)
    allocation = allocate(level, profile, alone, estimate, options)
    return job_script(profile, allocation, container, "prepare", options, folders)


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
