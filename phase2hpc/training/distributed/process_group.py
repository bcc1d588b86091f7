"""Process group of a launch: rendezvous, torch.distributed and its end."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from phase2hpc.errors import InputError
from phase2hpc.training.distributed.launch_environment import (
    LaunchEnvironment,
    launch_environment,
    node_name,
)
from phase2hpc.training.distributed.rendezvous import rendezvous
from phase2hpc.training.distributed.world import World

# For a rank that hangs; one that is gone is noticed at once. Longer than what the main rank does
# alone: preparing a store, waiting for a lease.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


@contextmanager
def process_group(device: str) -> Iterator[World]:
    """The world of this launch: of torchrun, srun, mpiexec, or one process alone.

    Only the main rank prints. Raises InputError for a contradictory environment, or where some
    ranks have a GPU of their own and others not; Phase2Error where the rendezvous fails.
    """
    launch = launch_environment(os.environ)
    if launch is None:
        yield World()
        return
    uses_cuda = device != "cpu" and torch.cuda.is_available()
    about: dict[str, Any] = {"name": node_name(), "gpu": None}
    if uses_cuda:
        torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
        about["gpu"] = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    store = None
    if launch.rank == 0:
        store = _tcp_store(launch, 0)
        about["port"] = store.port
    rank_monitor, everyone = rendezvous(launch.rank, launch.size, launch.address, launch.key, about)
    world = World(launch.rank, launch.size, rank_monitor)
    try:
        with world.fail_on_all_ranks(), _quiet_unless(world.is_main):
            _check_devices(everyone)
            store = store or _tcp_store(launch, int(everyone[0]["port"]))
            distributed.init_process_group(
                # gloo for objects and other tensors on the CPU.
                "cpu:gloo,cuda:nccl" if uses_cuda else "gloo",
                store=store,
                rank=world.rank,
                world_size=world.size,
                timeout=COLLECTIVE_TIMEOUT,
            )
            try:
                yield world
            finally:
                # Closes the connections, so that ranks inside a collective fail.
                distributed.destroy_process_group()
    finally:
        rank_monitor.leave()


def _tcp_store(launch: LaunchEnvironment, port: int) -> Any:
    return distributed.TCPStore(  # type: ignore[attr-defined]
        "localhost" if launch.rank == 0 else launch.address,
        port,
        launch.size,
        launch.rank == 0,
        COLLECTIVE_TIMEOUT,
        wait_for_workers=False,
    )


def _check_devices(everyone: Sequence[Mapping[str, Any]]) -> None:
    first: dict[str | None, int] = {}
    for rank, about in enumerate(everyone):
        other = first.setdefault(about["gpu"], rank)
        if about["gpu"] is not None and other != rank:
            raise InputError(
                f"ranks {other} and {rank} have the same GPU (of {about['name']}): start as many "
                "processes on a node as it has GPUs, or train with --device cpu"
            )
    if len(first) > 1 and None in first:
        without = everyone[first[None]]["name"]
        raise InputError(
            f"rank {first[None]} ({without}) sees no GPU, others do: ask for GPUs on every node, "
            "or train with --device cpu"
        )


@contextmanager
def _quiet_unless(is_main: bool) -> Iterator[None]:
    """Silence standard output and log records of all ranks but the main one."""
    if is_main:
        yield
        return
    ours = logging.getLogger("phase2hpc")
    level = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            yield
    finally:
        ours.setLevel(level)
