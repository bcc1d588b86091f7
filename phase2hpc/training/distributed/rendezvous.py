"""Rendezvous of a run's processes at the main rank, on a port derived from the launch.

srun names no free port, so torch's TCPStore cannot be reached without a step before it: the main
rank listens on one of a few ports that follow from the launch's key and checks the key of whoever
connects, so that several launches on a node do not mix.
"""

from __future__ import annotations

import errno
import socket
import time
import zlib

from phase2hpc.errors import Phase2Error
from phase2hpc.training.distributed.connection import ANSWER_SECONDS, Connection, Message
from phase2hpc.training.distributed.rank_monitor import RankMonitor

RENDEZVOUS_SECONDS = 300.0
# Below the ephemeral ports of common systems; other jobs of the node use them too.
FIRST_PORT, PORTS = 20_000, 12_000
PORTS_TRIED = 8


def rendezvous(
    rank: int, size: int, address: str, key: str, about: Message
) -> tuple[RankMonitor, list[Message]]:
    """Wait until all ranks are connected to the main rank at ``address``.

    key: of the launch; processes of another are refused. about: this rank's JSON values, among them
    ``name``, the node. Returns the monitor and the ``about`` of all ranks, by rank. Raises
    Phase2Error where ranks are missing after RENDEZVOUS_SECONDS.
    """
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    ports = [FIRST_PORT + (zlib.crc32(key.encode()) + i * 1009) % PORTS for i in range(PORTS_TRIED)]
    if rank == 0:
        connections, everyone = _receive_all(size, ports, key, about, deadline)
    else:
        connections, everyone = _join(rank, size, address, ports, key, about, deadline)
    return RankMonitor(rank, connections, [str(other["name"]) for other in everyone]), everyone


def _receive_all(
    size: int, ports: list[int], key: str, about: Message, deadline: float
) -> tuple[dict[int, Connection], list[Message]]:
    connections: dict[int, Connection] = {}
    abouts = {0: about}
    with _listener(ports) as listener:
        while len(abouts) < size:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = Connection(listener.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(r) for r in range(size) if r not in abouts)
                raise Phase2Error(
                    f"of {size} processes these did not connect within {RENDEZVOUS_SECONDS:g} s: "
                    f"rank {missing}; look at their logs"
                ) from None
            try:
                hello = connection.wait_for_one(ANSWER_SECONDS)
            except OSError:
                connection.close()
                continue
            rank = hello.get("rank")
            connection.send({"key": key})
            ours = (hello.get("key"), hello.get("size")) == (key, size)
            if not (ours and isinstance(rank, int) and 0 < rank < size):
                connection.close()
                continue
            if rank in connections:
                connections[rank].close()
            connections[rank], abouts[rank] = connection, hello["about"]
    everyone = [abouts[rank] for rank in range(size)]
    for connection in connections.values():
        connection.send({"everyone": everyone})
    return connections, everyone


def _listener(ports: list[int]) -> socket.socket:
    for port in ports:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
                )
            return socket.create_server(("", port), backlog=1024)
        except OSError as error:
            reason = error
    raise Phase2Error(f"no port of {', '.join(map(str, ports))} is free here ({reason})")


def _join(
    rank: int,
    size: int,
    address: str,
    ports: list[int],
    key: str,
    about: Message,
    deadline: float,
) -> tuple[dict[int, Connection], list[Message]]:
    hello = {"key": key, "rank": rank, "size": size, "about": about}
    while True:
        for port in ports:
            try:
                connection = Connection(socket.create_connection((address, port), ANSWER_SECONDS))
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            connection.send(hello)
            try:
                if connection.wait_for_one(ANSWER_SECONDS) != {"key": key}:
                    raise OSError(errno.ECONNREFUSED, "another run's process answers there")
                welcome = connection.wait_for_one(max(1.0, deadline - time.monotonic()))
                return {0: connection}, welcome["everyone"]
            except OSError as error:
                reason = error.strerror or str(error)
                connection.close()
        if time.monotonic() > deadline:
            raise Phase2Error(
                f"rank {rank} of {size} cannot meet rank 0 at {address} ({reason}): the nodes must "
                "reach each other by that name"
            )
        time.sleep(0.2)
