"""JSON messages between two ranks, one a line, over a TCP socket."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
import time
from typing import Any

# Wait for one answer of a process that is running.
ANSWER_SECONDS = 5.0
MAX_LINE_BYTES = 1 << 20

Message = dict[str, Any]


class Connection:
    """A connected socket with its unread messages."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._rest = b""
        self._unread: list[Message] = []
        self._sending = threading.Lock()
        # A lost node closes no socket: probed after 30 s of silence, given up after 90.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Send a message; that the peer is gone is noticed by ``receive``."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def unread(self) -> list[Message]:
        """Messages that arrived together with an earlier one."""
        messages, self._unread = self._unread, []
        return messages

    def receive(self) -> list[Message] | None:
        """The next messages; None where the peer closed the socket or sends something else."""
        try:
            data = self.socket.recv(1 << 16)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return None
        valid = all(isinstance(message, dict) for message in messages)
        return messages if data and valid and len(self._rest) <= MAX_LINE_BYTES else None

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
