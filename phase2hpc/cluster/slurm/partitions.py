"""Slurm version, partitions and nodes, and trial jobs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from phase2hpc.cluster.slurm.command import run_slurm
from phase2hpc.cluster.slurm.parsing import parse_duration, parse_value

# How long a trial job waits for a free node.
MAX_WAIT_SECONDS = 60
_NODE_FORMAT = "%R|%N|%c|%m|%G|%f|%T"


@dataclass(frozen=True)
class Node:
    """A node's size: cores, memory in GiB, generic resources as Slurm writes them."""

    name: str
    cpus: int
    memory_gb: float
    gres: str
    features: frozenset[str]
    state: str

    def gpus(self, kind: str | None = None) -> int:
        """GPUs of the node, of one type where ``kind`` names it."""
        return sum(int(count) for name, count in self._gpus() if kind is None or name == kind)

    def gpu_types(self) -> set[str]:
        return {name for name, _ in self._gpus() if name}

    def _gpus(self) -> list[tuple[str, str]]:
        return re.findall(r"(?:^|,)gpu:(?:([^:,()]+):)?(\d+)", self.gres)


@dataclass(frozen=True)
class Partition:
    """A partition's limits (None: no limit) and its nodes. ``accounts`` None: all may use it."""

    name: str
    default: bool
    up: bool
    max_hours: float | None
    max_nodes: int | None
    accounts: frozenset[str] | None
    nodes: tuple[Node, ...]


def version() -> str:
    """The installed version, such as ``22.05.8``; does not query the controller."""
    return run_slurm("sbatch", "--version").split()[-1]


def partitions() -> dict[str, Partition]:
    """Every partition by name, including those hidden from this user."""
    nodes: dict[str, list[Node]] = {}
    for line in run_slurm(
        "sinfo", "--all", "--Node", "--noheader", f"--format={_NODE_FORMAT}"
    ).splitlines():
        parts = line.split("|")
        if len(parts) != _NODE_FORMAT.count("|") + 1:
            continue
        partition, name, cpus, memory, gres, features, state = parts
        nodes.setdefault(partition, []).append(
            Node(name, int(cpus.rstrip("+")), int(memory.rstrip("+")) / 1024, gres,
                 frozenset(parse_value(features).split(",")) - {""}, state)
        )  # fmt: skip
    found = {}
    for line in run_slurm("scontrol", "--all", "--oneliner", "show", "partition").splitlines():
        facts = dict(re.findall(r"(\S+?)=(\S*)", line))
        if "PartitionName" not in facts:
            continue
        name, accounts = facts["PartitionName"], facts.get("AllowAccounts", "ALL")
        max_seconds = parse_duration(facts.get("MaxTime", ""))
        found[name] = Partition(
            name=name,
            default=facts.get("Default") == "YES",
            up=facts.get("State") == "UP",
            max_hours=None if max_seconds is None else max_seconds / 3600,
            max_nodes=int(nodes_limit)
            if (nodes_limit := facts.get("MaxNodes", "")).isdigit()
            else None,
            accounts=None if accounts == "ALL" else frozenset(accounts.split(",")),
            nodes=tuple(nodes.get(name, ())),
        )
    return found


def expected_start(options: Sequence[str]) -> str:
    """Answer of ``sbatch --test-only`` to these options, in one line; submits nothing.

    Raises Phase2Error with Slurm's reason if it would refuse the job.
    """
    # With --wrap, sbatch does not read a script from standard input.
    return run_slurm("sbatch", "--test-only", *options, "--wrap=true", output="stderr")


def run_on_node(options: Sequence[str], shell: str) -> str:
    """Output of a shell command on a node, run as a job of one task.

    Raises Phase2Error with Slurm's reason, also if no node is free within MAX_WAIT_SECONDS.
    """
    immediate = f"--immediate={MAX_WAIT_SECONDS}"
    return run_slurm("srun", *options, immediate, "sh", "-c", shell, timeout=2 * MAX_WAIT_SECONDS)
