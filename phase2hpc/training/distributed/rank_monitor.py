"""How a run's processes find each other, and how all of them end when one of them does.

Each rank keeps one connection to the main rank as long as it lives. A process that ends for
whatever reason closes it, so the others know at once, whatever they wait for. The first failure is
passed on to every rank, and one rank alone tells it to the user.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import sys
import threading
import time
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from phase2hpc.errors import Phase2Error

# How long the ranks wait for all of them to start.
MEETING_SECONDS = 300.0
# How long the others may take, once one has failed, to end by themselves: what waits for a GPU may
# not notice that it waits for nobody.
GRACE_SECONDS = 60.0
# Of one answer, from a process that is there.
ANSWER_SECONDS = 5.0
# Below the ports that systems give out by themselves; other jobs of the node use them too.
FIRST_PORT, PORTS = 20_000, 12_000
PORTS_TRIED = 8
MAX_LINE_BYTES = 1 << 20

Message = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """Why a run ends on every rank. rank: the one that tells it; code: all ranks' exit code."""

    rank: int
    code: int
    message: str


class RankMonitor:
    """This rank's end of the connections; made by ``rendezvous``.

    links: on the main rank by rank of the other end, elsewhere the main rank's alone. names: of all
    ranks, for people.
    """

    def __init__(self, rank: int, links: dict[int, _Link], names: list[str]) -> None:
        self.rank, self._links, self._names = rank, links, names
        self._failure: Failure | None = None
        self._lock = threading.Lock()
        self._known, self._left = threading.Event(), threading.Event()
        # Ranks at the other ends that have said that they are done.
        self._done: set[int] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, name="rank_monitor", daemon=True).start()

    def fail(self, code: int, message: str) -> Failure:
        """Tell the others that this rank fails; the failure that counts, any rank's first."""
        mine = Failure(self.rank, code, message)
        if self.rank == 0:
            return self._settle(mine)
        self._links[0].send({"failure": asdict(mine)})
        if not self._known.wait(ANSWER_SECONDS):
            return self._settle(mine)
        assert self._failure is not None
        return self._failure

    def failure_elsewhere(self) -> Failure | None:
        """Why others have left; None where nothing is known to be wrong with them."""
        self._known.wait(ANSWER_SECONDS)
        return self._failure

    def leave(self) -> None:
        """Part from the others: the main rank leaves first.

        Launchers may kill the whole job as soon as one process ends, and the main one has still to
        write how it ended.
        """
        for link in self._links.values():
            link.send({"done": True})
        if self.rank != 0:
            with self._changed:
                self._changed.wait_for(lambda: 0 in self._done, GRACE_SECONDS / 2)
        self._left.set()

    def _settle(self, failure: Failure) -> Failure:
        with self._lock:
            if self._failure is None:
                self._failure = failure
                if self.rank == 0:
                    for link in self._links.values():
                        link.send({"failure": asdict(failure)})
                self._known.set()
                threading.Thread(target=self._end_in_time, daemon=True).start()
            return self._failure

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, link in self._links.items():
                selector.register(link.socket, selectors.EVENT_READ, rank)
                for message in link.unread():
                    self._hear(rank, message)
            while selector.get_map():
                for key, _ in selector.select():
                    rank = key.data
                    messages = self._links[rank].receive()
                    if messages is None:
                        selector.unregister(key.fileobj)
                        self._closed(rank)
                    for message in messages or ():
                        self._hear(rank, message)

    def _hear(self, rank: int, message: Message) -> None:
        if "failure" in message:
            self._settle(Failure(**message["failure"]))
        elif "done" in message:
            with self._changed:
                self._done.add(rank)
                self._changed.notify_all()

    def _closed(self, rank: int) -> None:
        if rank not in self._done:
            # Of those who see the main rank gone, one has to tell it.
            teller = 0 if self.rank == 0 else 1
            reason = (
                f"rank {rank} of {len(self._names)} ({self._names[rank]}) is gone, killed or out "
                "of memory: look at its log, then go on with --resume"
            )
            self._settle(Failure(teller, Phase2Error.exit_code, reason))
        with self._changed:
            self._done.add(rank)
            self._changed.notify_all()

    def _end_in_time(self) -> None:
        if self._left.wait(GRACE_SECONDS):
            return
        assert self._failure is not None
        if self._failure.rank == self.rank:
            print(f"phase2hpc: {self._failure.message}", file=sys.stderr, flush=True)
        os._exit(self._failure.code)


class _Link:
    """Lines of JSON over a socket."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._rest = b""
        self._unread: list[Message] = []
        self._sending = threading.Lock()
        # A node that is lost closes nothing: asked after 30 s of silence, given up after 90.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """To a process that may be gone: then that is noticed by reading."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def unread(self) -> list[Message]:
        """What came together with an earlier message."""
        messages, self._unread = self._unread, []
        return messages

    def receive(self) -> list[Message] | None:
        """What comes next; None where the other end is closed, or is no process of ours."""
        try:
            data = self.socket.recv(1 << 16)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return None
        ours = all(isinstance(message, dict) for message in messages)
        return messages if data and ours and len(self._rest) <= MAX_LINE_BYTES else None

    def wait_for_one(self, seconds: float) -> Message:
        """The next message. Raises OSError where none comes in time."""
        deadline = time.monotonic() + seconds
        while not self._unread:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            messages = self.receive()
            if messages is None or time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "no answer")
            self._unread += messages
        self.socket.settimeout(None)
        return self._unread.pop(0)

    def close(self) -> None:
        self.socket.close()


def rendezvous(
    rank: int, size: int, address: str, key: str, about: Message
) -> tuple[RankMonitor, list[Message]]:
    """Wait for all ranks at the main rank's ``address``; what each says about itself, by rank.

    key: names the run's processes; ranks of another are sent away. about: plain values, among them
    ``name``, for people. Raises Phase2Error where they do not meet.
    """
    deadline = time.monotonic() + MEETING_SECONDS
    ports = [FIRST_PORT + (zlib.crc32(key.encode()) + i * 1009) % PORTS for i in range(PORTS_TRIED)]
    if rank == 0:
        links, everyone = _receive_all(size, ports, key, about, deadline)
    else:
        links, everyone = _join(rank, size, address, ports, key, about, deadline)
    return RankMonitor(rank, links, [str(other["name"]) for other in everyone]), everyone


def _receive_all(
    size: int, ports: list[int], key: str, about: Message, deadline: float
) -> tuple[dict[int, _Link], list[Message]]:
    links: dict[int, _Link] = {}
    said = {0: about}
    with _listener(ports) as listener:
        while len(said) < size:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = _Link(listener.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(r) for r in range(size) if r not in said)
                raise Phase2Error(
                    f"of {size} processes these have not come within {MEETING_SECONDS:g} s: rank "
                    f"{missing}; look at their logs"
                ) from None
            try:
                hello = link.wait_for_one(ANSWER_SECONDS)
            except OSError:
                link.close()
                continue
            rank = hello.get("rank")
            link.send({"key": key})
            ours = (hello.get("key"), hello.get("size")) == (key, size)
            if not (ours and isinstance(rank, int) and 0 < rank < size):
                link.close()
                continue
            if rank in links:
                links[rank].close()
            links[rank], said[rank] = link, hello["about"]
    everyone = [said[rank] for rank in range(size)]
    for link in links.values():
        link.send({"everyone": everyone})
    return links, everyone


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
) -> tuple[dict[int, _Link], list[Message]]:
    hello = {"key": key, "rank": rank, "size": size, "about": about}
    while True:
        for port in ports:
            try:
                link = _Link(socket.create_connection((address, port), ANSWER_SECONDS))
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            link.send(hello)
            try:
                if link.wait_for_one(ANSWER_SECONDS) != {"key": key}:
                    raise OSError(errno.ECONNREFUSED, "another run's process answers there")
                welcome = link.wait_for_one(max(1.0, deadline - time.monotonic()))
                return {0: link}, welcome["everyone"]
            except OSError as error:
                reason = error.strerror or str(error)
                link.close()
        if time.monotonic() > deadline:
            raise Phase2Error(
                f"rank {rank} of {size} cannot meet rank 0 at {address} ({reason}): the nodes must "
                "reach each other by that name"
            )
        time.sleep(0.2)
