"""Rank, world size and address of the main rank from the environment of the launcher.

torchrun, srun, and mpiexec of Open MPI, of MPICH and Intel MPI (Hydra) and of Cray (PALS).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from phase2hpc.errors import InputError
from phase2hpc.runs import provenance


@dataclass(frozen=True)
class LaunchEnvironment:
    """One process of a launch.

    rank: of ``size``. local_rank: on its node. address: host of the main rank. key: text that is
    unique to this launch among all on that host.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    key: str


@dataclass(frozen=True)
class _MpiLauncher:
    """Variables of an MPI launcher. variables: that its processes have, and those of a job step
    not."""

    rank: str
    size: str
    local_rank: str
    local_size: str
    variables: tuple[str, ...]


_OPEN_MPI = _MpiLauncher(
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)  # fmt: skip
_HYDRA = _MpiLauncher(
    "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ("PMI_RANK", "MPI_LOCALRANKID")
)
_PALS = _MpiLauncher(
    "PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE", ("PMI_RANK", "PMI_LOCAL_RANK")
)
# They tell a launch from others on its hosts.
_MPI_KEY = (
    "MASTER_PORT", "PMIX_NAMESPACE", "PMI_JOBID", "PALS_APID", "PBS_JOBID", "LSB_JOBID", "JOB_ID",
    "SLURM_JOB_ID",
)  # fmt: skip
# Files of PBS, LSF and SGE that list the hosts of a job, the first one first.
_HOST_FILES = ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE", "PE_HOSTFILE")


def launch_environment(environment: Mapping[str, str]) -> LaunchEnvironment | None:
    """The launch that this process belongs to; None for a single process.

    Raises InputError for variables that contradict each other, are no numbers, or do not tell the
    number of processes or the host of the main rank.
    """
    # A launcher inside a job step starts processes of its own, which have the step's variables too.
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        address = environment.get("MASTER_ADDR", "127.0.0.1")
        # They tell this launch from others on the node, and from itself before a restart.
        variables = ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
        return _launch(environment, names, address, variables)
    for launcher in (_OPEN_MPI, _HYDRA):
        if _is_of(launcher, environment):
            return _mpi_launch(environment, launcher)
    if "SLURM_STEP_ID" in environment:
        # A batch script has SLURM_NTASKS and SLURM_PROCID too, and is one process.
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        if _number(environment, names[1]) == 1:
            return None
        alone = environment.get("SLURM_STEP_NUM_NODES") == "1"
        address = "127.0.0.1" if alone else environment.get("MASTER_ADDR") or first_node(nodes)
        variables = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return _launch(environment, names, address, variables)
    if _is_of(_PALS, environment):
        return _mpi_launch(environment, _PALS)
    if found := next((name for name in ("PMIX_RANK", "PMI_RANK") if name in environment), None):
        raise InputError(
            f"{found}={environment[found]}: started by an MPI launcher that does not tell the "
            "number of processes: set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, "
            f"start with torchrun, or unset {found} for a process alone"
        )
    return None


def _is_of(launcher: _MpiLauncher, environment: Mapping[str, str]) -> bool:
    return all(name in environment for name in launcher.variables)


def _mpi_launch(environment: Mapping[str, str], launcher: _MpiLauncher) -> LaunchEnvironment | None:
    size = _number(environment, launcher.size)
    if size == 1:
        return None
    alone = _number(environment, launcher.local_size) == size
    address = "127.0.0.1" if alone else environment.get("MASTER_ADDR") or _first_host(environment)
    names = (launcher.rank, launcher.size, launcher.local_rank)
    return _launch(environment, names, address, _MPI_KEY)


def _first_host(environment: Mapping[str, str]) -> str:
    """The first host of a batch job, where MPI launchers start rank 0."""
    if nodes := environment.get("SLURM_JOB_NODELIST"):
        return first_node(nodes)
    for name in _HOST_FILES:
        if path := environment.get(name):
            try:
                words = Path(path).read_text().split(maxsplit=1)
            except OSError as error:
                raise InputError(f"{name}={path}: cannot be read ({error.strerror})") from None
            if words:
                return words[0]
    raise InputError("MASTER_ADDR is not set: set it to the host of rank 0, for all processes")


def _launch(
    environment: Mapping[str, str],
    names: tuple[str, str, str],
    address: str,
    variables: tuple[str, ...],
) -> LaunchEnvironment | None:
    rank, size, local_rank = (_number(environment, name) for name in names)
    if size == 1:
        return None
    if not 0 <= rank < size:
        raise InputError(f"{names[0]}={rank} with {names[1]}={size}: ranks count from 0")
    key = " ".join(f"{name}={environment.get(name, '')}" for name in variables)
    return LaunchEnvironment(rank, size, local_rank, address, f"{address} {key}")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "1" if name.endswith("TASKS") else "0")
    if not text.isdecimal():
        raise InputError(
            f"{name}={text} is not a number: start with torchrun, srun or mpiexec, or unset it"
        )
    return int(text)


def first_node(nodes: str) -> str:
    """The first host of a Slurm node list: ``n[03-05,9],m1`` -> ``n03``."""
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", nodes)
    if first is None:
        raise InputError(f"SLURM_STEP_NODELIST='{nodes}': no node name in it; set MASTER_ADDR")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def node_name() -> str:
    """Slurm's name of the node, where several may share one host, else the host name."""
    return os.environ.get("SLURMD_NODENAME") or provenance.host()
