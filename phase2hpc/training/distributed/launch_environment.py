"""Rank, world size and address of the main rank from the environment of torchrun or srun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

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


def launch_environment(environment: Mapping[str, str]) -> LaunchEnvironment | None:
    """The launch that this process belongs to; None for a single process.

    Raises InputError for variables that contradict each other or are no numbers.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        # A launcher inside a job step starts processes of its own.
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        address = environment.get("MASTER_ADDR", "127.0.0.1")
        # They tell this launch from others on the node, and from itself before a restart.
        variables = ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    elif "SLURM_STEP_ID" in environment:
        # A batch script has SLURM_NTASKS and SLURM_PROCID too, and is one process.
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        alone = environment.get("SLURM_STEP_NUM_NODES") == "1"
        address = "127.0.0.1" if alone else environment.get("MASTER_ADDR") or first_node(nodes)
        variables = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    else:
        return None
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
        raise InputError(f"{name}={text} is not a number: start with torchrun or srun, or unset it")
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
