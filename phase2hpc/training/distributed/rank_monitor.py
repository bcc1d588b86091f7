"""Watching the other ranks of a run, so that all of them end when one does.

Each rank keeps a connection to the main rank for its whole life. A process that ends for whatever
reason closes it, so the others know at once, whatever they wait for. The first failure is sent to
every rank, with its message and exit code, and one rank alone reports it.

torch's own means were tried (torch 2.13) and do less: TCPStore tells no rank that another is gone,
and a wait in it lasts to its timeout; ``monitored_barrier`` needs gloo and notices a lost rank only
when it is called; a collective that fails names neither the rank nor the cause.
"""

from __future__ import annotations

import os
import selectors
import sys
import threading
from dataclasses import asdict, dataclass

from phase2hpc.errors import Phase2Error, StopReason
from phase2hpc.training.distributed.connection import ANSWER_SECONDS, Connection, Message

# How long the other ranks may take to end by themselves once one has failed: one that waits for a
# GPU may not notice that the others are gone.
GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Failure:
    """Cause of the end of all ranks.

    rank: the one that reports it. code: exit code of all ranks. stop_reason: for a stop that is
    no fault.
    """

    rank: int
    code: int
    message: str
    stop_reason: StopReason | None = None


class RankMonitor:
    """This rank's end of the connections; made by ``rendezvous``.

    connections: by rank of the peer; the main rank has one to each, the others one to rank 0.
    names: node names of all ranks, for messages.
    """

    def __init__(self, rank: int, connections: dict[int, Connection], names: list[str]) -> None:
        self.rank, self._connections, self._names = rank, connections, names
        self._failure: Failure | None = None
        self._lock = threading.Lock()
        self._known, self._left = threading.Event(), threading.Event()
        # Peers that have finished.
        self._done: set[int] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, name="rank_monitor", daemon=True).start()

    def fail(self, own: Failure) -> Failure:
        """Announce that this rank fails; the run's first failure, which may be another rank's."""
        if self.rank == 0:
            return self._settle(own)
        self._connections[0].send({"failure": asdict(own)})
        if not self._known.wait(ANSWER_SECONDS):
            return self._settle(own)
        assert self._failure is not None
        return self._failure

    def failure_elsewhere(self) -> Failure | None:
        """The failure of another rank; None where none is known after a short wait."""
        self._known.wait(ANSWER_SECONDS)
        return self._failure

    def leave(self) -> None:
        """End the connections, the main rank first.

        Launchers may kill the whole job as soon as one process ends, and the main rank has still
        to write the manifest.
        """
        for connection in self._connections.values():
            connection.send({"done": True})
        if self.rank != 0:
            with self._changed:
                self._changed.wait_for(lambda: 0 in self._done, GRACE_SECONDS / 2)
        self._left.set()

    def _settle(self, failure: Failure) -> Failure:
        with self._lock:
            if self._failure is None:
                self._failure = failure
                if self.rank == 0:
                    for connection in self._connections.values():
                        connection.send({"failure": asdict(failure)})
                self._known.set()
                threading.Thread(target=self._exit_after_grace, daemon=True).start()
            return self._failure

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection.socket, selectors.EVENT_READ, rank)
                for message in connection.unread():
                    self._handle(rank, message)
            while selector.get_map():
                for key, _ in selector.select():
                    rank = key.data
                    messages = self._connections[rank].receive()
                    if messages is None:
                        selector.unregister(key.fileobj)
                        self._closed(rank)
                    for message in messages or ():
                        self._handle(rank, message)

    def _handle(self, rank: int, message: Message) -> None:
        if "failure" in message:
            reason = message["failure"].pop("stop_reason", None)
            reason = None if reason is None else StopReason(reason)
            self._settle(Failure(**message["failure"], stop_reason=reason))
        elif "done" in message:
            with self._changed:
                self._done.add(rank)
                self._changed.notify_all()

    def _closed(self, rank: int) -> None:
        if rank not in self._done:
            # Where the main rank is gone, rank 1 reports it.
            reporter = 0 if self.rank == 0 else 1
            reason = (
                f"rank {rank} of {len(self._names)} ({self._names[rank]}) is gone, killed or out "
                "of memory: look at its log, then go on with --resume"
            )
            self._settle(Failure(reporter, Phase2Error.exit_code, reason))
        with self._changed:
            self._done.add(rank)
            self._changed.notify_all()

    def _exit_after_grace(self) -> None:
        if self._left.wait(GRACE_SECONDS):
            return
        assert self._failure is not None
        if self._failure.rank == self.rank:
            print(f"phase2hpc: {self._failure.message}", file=sys.stderr, flush=True)
        os._exit(self._failure.code)
