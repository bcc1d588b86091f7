"""Collectives of one process, and the exception with which each rank ends."""

from __future__ import annotations

import socket

import pytest
import torch
from torch import distributed

from phase2hpc.errors import InputError, Phase2Error, StoppedEarly, StopReason
from phase2hpc.training.distributed.connection import Connection
from phase2hpc.training.distributed.rank_monitor import Failure, RankMonitor
from phase2hpc.training.distributed.world import World, _is_collective_error


@pytest.fixture
def monitors():
    """Two ranks of one run in this process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    names = ["node1", "node2"]
    main = RankMonitor(0, {1: Connection(here)}, names)
    other = RankMonitor(1, {0: Connection(there)}, names)
    # Their threads would end this process after the grace period.
    main._left.set()
    other._left.set()
    yield main, other
    here.close()
    there.close()


@pytest.mark.parametrize(
    ("raised", "kind", "code", "reason"),
    [
        (InputError("no such file"), InputError, 2, None),
        (Phase2Error("no room"), Phase2Error, 1, None),
        (StoppedEarly("stopped", StopReason.MAX_HOURS), StoppedEarly, 75, StopReason.MAX_HOURS),
        (StoppedEarly("stopped"), StoppedEarly, 75, StopReason.SIGNAL),
        (KeyboardInterrupt(), StoppedEarly, 130, StopReason.SIGNAL),
        (ZeroDivisionError("a bug"), Phase2Error, 1, None),
    ],
)
def test_the_first_failure_ends_every_rank(monitors, raised, kind, code, reason) -> None:
    """With its message, exit code and stop reason, and reported by one rank."""
    main, other = (World(rank, 2, monitor) for rank, monitor in enumerate(monitors))
    with pytest.raises(type(raised)) as own, other.fail_on_all_ranks():
        raise raised
    assert own.value is raised and not getattr(raised, "already_reported", False)
    with pytest.raises(kind) as shared, main.fail_on_all_ranks():
        raise ValueError("a consequence")
    error = shared.value
    assert type(error) is kind and error.already_reported and error.exit_code == code
    assert str(error).startswith("rank 1: ")
    assert getattr(error, "reason", None) == reason


def test_a_lost_rank_is_named(monitors) -> None:
    main, other = monitors
    other._connections[0].socket.shutdown(socket.SHUT_RDWR)
    failure = main.failure_elsewhere()
    assert failure is not None and failure.rank == 0 and failure.code == 1
    assert "rank 1 of 2 (node2) is gone" in failure.message


def test_a_failure_is_sent_whole(monitors) -> None:
    main, other = monitors
    sent = Failure(1, 75, "stopped", StopReason.JOB_TIME_LIMIT)
    assert other.fail(sent) == sent
    assert main.failure_elsewhere() == sent


def test_errors_of_collectives_are_known_by_their_origin() -> None:
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError) as refused:
            distributed.all_reduce(torch.eye(2).to_sparse_csr())
    finally:
        distributed.destroy_process_group()
    assert _is_collective_error(refused.value)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not _is_collective_error(other.value)
    with pytest.raises(RuntimeError) as named:
        raise RuntimeError("gloo in its text")
    assert not _is_collective_error(named.value)
    assert not _is_collective_error(RuntimeError("never raised"))


def test_alone_every_collective_is_the_identity() -> None:
    world, tensor = World(), torch.arange(3.0)
    world.all_reduce(tensor)
    world.broadcast(iter([tensor]))
    assert tensor.tolist() == [0, 1, 2]
    assert world.all_gather("x") == ["x"] and world.run_on_main(lambda: 5) == 5
