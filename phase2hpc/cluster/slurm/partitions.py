"""The cluster as Slurm sees it: version, partitions and nodes, and what it says to a trial job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from phase2hpc.cluster.slurm.command import ask
from phase2hpc.cluster.slurm.parsing import said, seconds

# A node that is not free so soon will not be for a while.
NODE_SECONDS = 60
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
    """The installed Slurm's, as in '22.05.8'; no controller is asked."""
    return ask("sbatch", "--version").split()[-1]


def partitions() -> dict[str, Partition]:
    """Every partition, those hidden from this user too, by name."""
    nodes: dict[str, list[Node]] = {}
    for line in ask(
        "sinfo", "--all", "--Node", "--noheader", f"--format={_NODE_FORMAT}"
    ).splitlines():
        parts = line.split("|")
        if len(parts) != _NODE_FORMAT.count("|") + 1:
            continue
        partition, name, cpus, memory, gres, features, state = parts
        nodes.setdefault(partition, []).append(
            Node(name, int(cpus.rstrip("+")), int(memory.rstrip("+")) / 1024, gres,
                 frozenset(said(features).split(",")) - {""}, state)
        )  # fmt: skip
    found = {}
    for line in ask("scontrol", "--all", "--oneliner", "show", "partition").splitlines():
        facts = dict(re.findall(r"(\S+?)=(\S*)", line))
        if "PartitionName" not in facts:
            continue
        name, accounts = facts["PartitionName"], facts.get("AllowAccounts", "ALL")
        longest = seconds(facts.get("MaxTime", ""))
        found[name] = Partition(
            name=name,
            default=facts.get("Default") == "YES",
            up=facts.get("State") == "UP",
            max_hours=None if longest is None else longest / 3600,
            max_nodes=int(most) if (most := facts.get("MaxNodes", "")).isdigit() else None,
            accounts=None if accounts == "ALL" else frozenset(accounts.split(",")),
            nodes=tuple(nodes.get(name, ())),
        )
    return found


def would_start(options: Sequence[str]) -> str:
    """What ``sbatch --test-only`` answers to these options, in one line; nothing is submitted.

    Raises Phase2Error with Slurm's reason where it would refuse the job.
    """
    # It reads a script from standard input only without --wrap.
    return ask("sbatch", "--test-only", *options, "--wrap=true", answer_on="stderr")


def run_on_node(options: Sequence[str], shell: str) -> str:
    """What a line of shell prints on a node, as a job of one task that waits for a free node.

    Raises Phase2Error with Slurm's reason, also where no node is free for a minute.
    """
    immediate = f"--immediate={NODE_SECONDS}"
    return ask("srun", *options, immediate, "sh", "-c", shell, timeout=2 * NODE_SECONDS)
