"""Site profiles: how a cluster's jobs request resources, one YAML file per site.

Fields and their meaning are defined here; jobs/README.md explains how to write a profile.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phase2hpc.cluster.profiles.fields import (
    Binds,
    Environment,
    Expanded,
    Gigabytes,
    GpuType,
    Hours,
    Line,
    Lines,
    Name,
    Options,
    SbatchOptions,
)
from phase2hpc.cluster.profiles.yaml_loader import read_mapping
from phase2hpc.config.algorithm_registry import unknown_key
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils import tables
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.error_text import first_problem
from phase2hpc.utils.package_files import shared_path

# Further folders of profiles, separated as in PATH.
FOLDERS_VARIABLE = "PHASE2HPC_PROFILES"
SUFFIXES = (".yaml", ".yml")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ContainerSettings(_Settings):
    """Container of a job's command."""

    image: Expanded = Field(
        description="a .sif file or sandbox folder (apptainer, singularity), an image's name "
        "(docker, podman); ~ and $VARIABLES of the submitting shell are expanded"
    )
    runtime: Literal["apptainer", "singularity", "docker", "podman"] = Field(
        "apptainer", description="the command that starts it"
    )
    binds: Binds = Field(
        (),
        description="further folders to bind, as /path or /path:/inside[:ro]; those of the store "
        "and of the runs are always bound",
    )
    options: Options = Field((), description="further options of the runtime")
    nv: bool | None = Field(
        None, description="NVIDIA GPUs inside; default: if the job requests GPUs"
    )


class Profile(_Settings):
    """Settings of a site; every field is optional."""

    description: Line = Field("", description="one line for the list of profiles")
    executor: Literal["slurm", "local"] = Field(
        "slurm", description="submit to Slurm, or run the same job on this machine"
    )

    partition: Name | None = Field(None, description="partition, or a comma list")
    account: Name | None = Field(None, description="account that is charged")
    qos: Name | None = Field(None, description="quality of service")
    constraint: Name | None = Field(None, description="required node features")
    reservation: Name | None = Field(None, description="reservation to run in")

    gpu_request: Literal["gres", "gpus-per-node", "gpus-per-task"] = Field(
        "gres", description="the option that requests GPUs at this site"
    )
    gpu_type: GpuType | None = Field(None, description="type of GPU, as in gres=gpu:TYPE:1")
    cpus: int | None = Field(None, ge=1, description="cores per process; default: the level's")
    memory_gb: Gigabytes | None = Field(
        None, description="memory per node, GiB or as 64G; default: the level's"
    )
    gpus: int | None = Field(None, ge=0, description="GPUs per node; default: the level's")
    nodes: int | None = Field(None, ge=1, description="nodes; default: 1")
    hours: Hours | None = Field(
        None, description="time limit, hours or as D-HH:MM:SS; default: estimated"
    )

    max_hours: Hours | None = Field(
        None,
        description="longest time limit; longer runs continue by requeue; default: the "
        "partition's limit",
    )
    max_nodes: int | None = Field(None, ge=1, description="most nodes per job")
    max_gpus_per_node: int | None = Field(None, ge=0, description="GPUs of a node")
    max_memory_gb: Gigabytes | None = Field(None, description="memory of a node, as memory_gb")
    max_cpus: int | None = Field(None, ge=1, description="cores of a node")

    setup: Lines = Field(
        (), description="shell lines before the command: modules, conda, a virtual environment"
    )
    python: Expanded | None = Field(
        None,
        description="interpreter on the node; default: the one that submits; in a container "
        "python3",
    )
    environment: Environment = Field(
        {}, description="environment variables of the job, inside a container too"
    )
    container: ContainerSettings | None = Field(
        None, description="container to run in; default: none"
    )
    signal_seconds: int = Field(
        120,
        ge=10,
        le=3600,
        description="seconds of warning before the time limit, to save and stop",
    )
    sbatch: SbatchOptions = Field(
        {}, description="further sbatch options by long name; true for one without a value"
    )
    srun: Options = Field((), description="further options of srun")

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        for field, limit in _LIMITS.items():
            value, most = getattr(self, field), getattr(self, limit)
            if value is not None and most is not None and value > most:
                raise ValueError(f"{field} {value:g} is above {limit} {most:g}")
        if self.executor == "local":
            for field in _SLURM_ONLY:
                if field in self.model_fields_set:
                    raise ValueError(f"{field}: has no effect with 'executor: local'")
        return self


_LIMITS = {
    "hours": "max_hours", "nodes": "max_nodes", "gpus": "max_gpus_per_node",
    "memory_gb": "max_memory_gb", "cpus": "max_cpus",
}  # fmt: skip
_SLURM_ONLY = (
    "partition", "account", "qos", "constraint", "reservation", "gpu_request", "gpu_type",
    "nodes", "max_nodes", "sbatch", "srun",
)  # fmt: skip


def read_profile(path: Path) -> Profile:
    """Read a profile from a YAML file. Raises InputError with file and field."""
    content = read_mapping(path)
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"{path}: {first_problem(error, 'field', unknown=_unknown_field)}"
        ) from None


def find_profile(name_or_path: str) -> Profile:
    """A profile by its file, or by its name in ``profile_folders``.

    Raises InputError for an unknown one (with the nearest name) or an invalid one.
    """
    return read_profile(profile_path(name_or_path))


def profile_path(name_or_path: str) -> Path:
    """The file of a profile. Raises InputError as ``find_profile``."""
    if _is_path(name_or_path):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise InputError(f"profile {name_or_path}: no such file")
        return path
    found = _by_name()
    if name_or_path not in found:
        folders = ", ".join(str(folder) for folder in profile_folders())
        raise InputError(f"{_unknown('profile', name_or_path, found)} (looked in {folders})")
    return found[name_or_path][0]


def portable_name(name_or_path: str) -> str:
    """A profile's name, or its absolute path if the name resolves in this folder alone."""
    path = profile_path(name_or_path)
    if _is_path(name_or_path) or not path.is_absolute():
        return str(absolute_path(path))
    return name_or_path


def _is_path(name_or_path: str) -> bool:
    path = Path(name_or_path)
    return path.suffix in SUFFIXES or len(path.parts) > 1


def profile_folders() -> list[Path]:
    """Folders that are searched for a name, in this order: ./jobs, those of
    ``$PHASE2HPC_PROFILES``, the user's configuration folder, and the shipped profiles."""
    listed = [part for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # By the XDG specification, a relative path is ignored.
    config = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    folders = [Path("jobs"), *(Path(part).expanduser() for part in listed)]
    return [*folders, config / "phase2hpc" / "jobs", shared_path("jobs")]


def profiles_table() -> str:
    """Every profile by name: its file, its description, and the files that it hides."""
    rows = []
    for name, (path, *hidden) in sorted(_by_name().items()):
        try:
            about = read_profile(path).description
        except Phase2Error as error:
            about = f"invalid: {error}"
        if hidden:
            about += f" (hides {', '.join(map(str, hidden))})"
        rows.append((name, str(path), about))
    return tables.aligned(("profile", "file", "description"), rows, left=3)


def _by_name() -> dict[str, list[Path]]:
    """The files of each name, in search order."""
    found: dict[str, list[Path]] = {}
    seen = set()
    for folder in profile_folders():
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            if path.suffix in SUFFIXES and path.is_file() and path.resolve() not in seen:
                seen.add(path.resolve())
                found.setdefault(path.stem, []).append(path)
    return found


def _unknown(kind: str, key: str, valid: Iterable[str]) -> str:
    """One line with the nearest valid keys."""
    return unknown_key(kind, key, difflib.get_close_matches(key, list(valid), n=12, cutoff=0.0))


def _unknown_field(path: list[str]) -> str:
    settings = ContainerSettings if len(path) > 1 else Profile
    return _unknown("field", path[-1], settings.model_fields)
