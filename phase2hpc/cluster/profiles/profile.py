"""Site profiles: how a cluster's jobs request resources, one YAML file per site.

Fields and their meaning are defined here; jobs/README.md explains how to write a profile.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phase2hpc.cluster.profiles.fields import (
    CLUSTER_OPTIONS,
    NOT_BY_OPTION,
    Binds,
    Environment,
    Expanded,
    Gigabytes,
    GpuType,
    Hours,
    HoursPerLevel,
    Line,
    Lines,
    Name,
    NodeMemory,
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
from phase2hpc.utils.time_format import format_duration

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
    extends: Expanded | None = Field(
        None,
        description="another profile, by name or path, whose fields hold where this one has none; "
        "environment, sbatch, container and hours_per_level are merged key by key",
    )
    executor: Literal["slurm", "local"] = Field(
        "slurm", description="submit to Slurm, or run the same job on this machine"
    )

    partition: Name | None = Field(None, description="partition, or a comma list")
    account: Name | None = Field(None, description="account that is charged")
    qos: Name | None = Field(None, description="quality of service")
    constraint: Name | None = Field(None, description="required node features")
    reservation: Name | None = Field(None, description="reservation to run in")

    job_name: Name | None = Field(
        None, description="name of the job; default: phase2hpc, algorithm and level"
    )

    gpu_request: Literal["gres", "gpus", "gpus-per-node", "gpus-per-task", "none"] = Field(
        "gres",
        description="the option that requests GPUs at this site; gpus: of the whole job; none: "
        "nodes have them without a request, or sbatch requests them",
    )
    cpu_request: Literal["cpus-per-task", "cpus-per-gpu", "none"] = Field(
        "cpus-per-task", description="the option that requests cores at this site"
    )
    memory_request: Literal["mem", "mem-per-cpu", "mem-per-gpu", "none"] = Field(
        "mem",
        description="the option that requests memory at this site; per core and per GPU, that of "
        "the node is divided",
    )
    gpu_type: GpuType | None = Field(None, description="type of GPU, as in gres=gpu:TYPE:1")
    cpus: int | None = Field(None, ge=1, description="cores per process; default: the level's")
    memory_gb: NodeMemory | None = Field(
        None,
        description="memory per node, GiB or as 64G; 0: all of the node's; default: the level's",
    )
    gpus: int | None = Field(
        None, ge=0, description="GPUs per node, with one process each; default: the level's"
    )
    nodes: int | None = Field(None, ge=1, description="nodes; default: 1")
    hours: Hours | None = Field(
        None, description="time limit, hours or as D-HH:MM:SS; default: estimated"
    )
    hours_per_level: HoursPerLevel = Field(
        {}, description="time limit of single levels, instead of hours"
    )
    array_parallelism: int | None = Field(
        None, ge=1, description="most jobs of an array that run at once; default: all"
    )
    requeue: bool = Field(
        True,
        description="requeue the job after the time limit, preemption and node failure; false: "
        "continue by submit --resume",
    )
    dependency: Literal["singleton"] | None = Field(
        None, description="singleton: one job of the same name at a time"
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
    teardown: Lines = Field(
        (), description="shell lines after the command, however it ended, and before a requeue"
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
        {},
        description="further sbatch options by long name; true for one without a value, false for "
        "none; gres is joined to the GPUs'",
    )
    srun: Options = Field((), description="further options of srun")

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        limited = {field: getattr(self, field) for field in _LIMITS}
        for level, hours in self.hours_per_level.items():
            limited[f"hours_per_level.{level}"] = hours
        for field, value in limited.items():
            limit = _LIMITS.get(field, "max_hours")
            most = getattr(self, limit)
            if value is not None and most is not None and value > most:
                shown, highest = (_shown(limit, number) for number in (value, most))
                raise ValueError(f"{field} {shown} is above {limit} {highest}")
        if self.memory_request == "mem-per-cpu" and self.cpu_request == "none":
            raise ValueError(
                "memory_request mem-per-cpu needs cores, and cpu_request is none: set mem-per-cpu "
                "in 'sbatch'"
            )
        if self.memory_gb == 0 and self.memory_request in ("mem-per-cpu", "mem-per-gpu"):
            raise ValueError(
                f"memory_gb 0 means all of a node's memory, and memory_request is "
                f"{self.memory_request}: give one of them"
            )
        for field, request in _REQUESTS.items():
            if getattr(self, field) is not None and getattr(self, request) == "none":
                raise ValueError(f"{field} has no effect with '{request}: none'")
        if self.executor == "local":
            for field in _SLURM_ONLY:
                if field in self.model_fields_set:
                    raise ValueError(f"{field}: has no effect with 'executor: local'")
        return self

    def at_level(self, level: str) -> Profile:
        """The profile with the time limit of a level."""
        hours = self.hours_per_level.get(level, self.hours)
        return self.model_copy(update={"hours": hours, "hours_per_level": {}})


_LIMITS = {
    "hours": "max_hours", "nodes": "max_nodes", "gpus": "max_gpus_per_node",
    "memory_gb": "max_memory_gb", "cpus": "max_cpus",
}  # fmt: skip
# Without a request, a number of GPUs is still that of the processes.
_REQUESTS = {"cpus": "cpu_request", "memory_gb": "memory_request", "gpu_type": "gpu_request"}
_SLURM_ONLY = (
    "partition", "account", "qos", "constraint", "reservation", "job_name", "gpu_request",
    "cpu_request", "memory_request", "gpu_type", "nodes", "max_nodes", "array_parallelism",
    "requeue", "dependency", "sbatch", "srun",
)  # fmt: skip


def read_profile(path: Path) -> Profile:
    """Read a profile from a YAML file, with the fields of the one that it extends.

    Raises InputError with file and field.
    """
    return _validated(path, _content(path, ()))


def _validated(path: Path, content: dict[str, Any]) -> Profile:
    # An empty field has its default, also where the other profile sets it.
    given = {field: value for field, value in content.items() if value is not None}
    try:
        return Profile.model_validate(given)
    except ValidationError as error:
        raise InputError(
            f"{path}: {first_problem(error, 'field', unknown=_unknown_field)}"
        ) from None


def _content(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """The fields of a file over those of the profile that it extends."""
    content = read_mapping(path)
    name = _validated(path, {"extends": content.get("extends")}).extends
    if name is None:
        return content
    try:
        other = profile_path(str(path.parent / name) if _is_path(name) else name)
    except InputError as error:
        raise InputError(f"{path}: extends: {error}") from None
    chain = (*extended_by, path)
    if any(other.resolve() == known.resolve() for known in chain):
        names = " -> ".join(map(str, (*chain, other)))
        raise InputError(f"{path}: extends: a profile cannot extend itself ({names})")
    merged = _content(other, chain)
    # An error in it is one of its own file.
    _validated(other, merged)
    for field, value in content.items():
        old = merged.get(field)
        if isinstance(old, dict) and isinstance(value, dict):
            value = {**old, **value}
        merged[field] = value
    return merged


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


def _shown(limit: str, value: float) -> str:
    return format_duration(3600 * value) if limit == "max_hours" else f"{value:g}"


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
    if path[-1] in CLUSTER_OPTIONS:
        return f"field '{path[-1]}': {NOT_BY_OPTION}"
    settings = ContainerSettings if len(path) > 1 else Profile
    return _unknown("field", path[-1], settings.model_fields)
