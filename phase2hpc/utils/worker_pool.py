"""Worker processes that start clean, answer in order and end with their parent.

A worker is a new interpreter that imports only the module of its function: no fork of a process
with threads or an open HDF5 file, and no second run of the user's script as under multiprocessing.
A thread of its own reads the connection, so that a worker, even a busy one, ends at once when its
parent does, also by SIGKILL. concurrent.futures and Pebble give neither.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

from phase2hpc.errors import Phase2Error

Task = TypeVar("Task")
Result = TypeVar("Result")

# One in work and one waiting, so that a worker never waits for its parent.
TASKS_PER_WORKER = 2
# Seconds after which answers are sent, though more tasks of the same message wait: small tasks
# would cost as much to send as to do.
FLUSH = 0.02

_BOOT = (
    "import sys; sys.path[:] = {path!r}; {prevent}"
    "from phase2hpc.utils.worker_pool import serve; serve({descriptor})"
)
# vesin imports torch if it is installed: a second and 200 MB that few workers need.
_PREVENT_TORCH = "sys.modules['torch'] = None; "


class WorkerDied(Phase2Error):
    """A worker process ended without an answer."""


class Worker:
    """A process that applies ``function`` (picklable) to the tasks it is sent.

    torch: whether it can import torch.
    """

    def __init__(self, function: Callable[[Any], Any], *, torch: bool = False) -> None:
        self._connection, theirs = Pipe()
        command = _BOOT.format(
            path=sys.path, prevent="" if torch else _PREVENT_TORCH, descriptor=theirs.fileno()
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", command],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._answers: deque[tuple[bool, Any]] = deque()
        self.send(function)

    def send(self, *tasks: Any) -> None:
        """Send tasks. The answers of several may come together; a death may lose some of them."""
        try:
            self._connection.send(tasks)
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Any:
        """The next answer. Raises WorkerDied, the function's Phase2Error, or a RuntimeError with
        the traceback of any other exception."""
        if not self._answers:
            try:
                self._answers.extend(self._connection.recv())
            except (EOFError, OSError) as error:
                raise self._died() from error
        succeeded, answer = self._answers.popleft()
        if succeeded:
            return answer
        if isinstance(answer, Phase2Error):
            raise answer
        raise RuntimeError(f"in a worker process:\n{answer}")

    @staticmethod
    def ready(workers: Sequence[Worker]) -> list[Worker]:
        """Wait for an answer, or the end, of at least one of these; all that have one."""
        if answered := [worker for worker in workers if worker._answers]:
            return answered
        connections = wait([worker._connection for worker in workers])
        return [worker for worker in workers if worker._connection in connections]

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.wait()

    def _died(self) -> WorkerDied:
        code = self._process.wait()
        if code >= 0:
            return WorkerDied(f"a worker process ended with exit code {code}")
        name = signal.Signals(-code).name
        advice = " (out of memory? use fewer workers)" if -code == signal.SIGKILL else ""
        return WorkerDied(f"a worker process was ended by {name}{advice}")


def ordered_map(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """Yield ``function(task)`` in the order of the tasks, computed by ``workers`` processes.

    One worker means this process. At most TASKS_PER_WORKER tasks per worker are taken from
    ``tasks`` ahead of the results.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    pool: list[Worker] = []
    pending: deque[Worker] = deque()
    try:
        for number, task in enumerate(tasks):
            if len(pending) == TASKS_PER_WORKER * workers:
                yield pending.popleft().receive()
            if len(pool) < workers:
                pool.append(Worker(function))
            worker = pool[number % workers]
            worker.send(task)
            pending.append(worker)
        while pending:
            yield pending.popleft().receive()
    finally:
        for worker in pool:
            worker.close()


def serve(descriptor: int) -> None:
    """Main loop of a worker: receive the function, then tasks, until the connection closes."""
    # Ctrl-C reaches the whole process group; the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    messages: queue.SimpleQueue[Sequence[Any]] = queue.SimpleQueue()
    # Tasks are received at once, so that parent and worker never both block in send.
    threading.Thread(target=_receive_tasks, args=(connection, messages), daemon=True).start()
    (function,) = messages.get()
    while True:
        try:
            for answers in _answers(function, messages.get()):
                connection.send(answers)
        except OSError:  # The parent is gone.
            os._exit(0)


def _answers(
    function: Callable[[Any], Any], tasks: Sequence[Any]
) -> Iterator[list[tuple[bool, Any]]]:
    """Answers to the tasks of a message, those of up to FLUSH seconds together."""
    answers: list[tuple[bool, Any]] = []
    begin = time.monotonic()
    for task in tasks:
        try:
            answers.append((True, function(task)))
        except Phase2Error as error:
            answers.append((False, error))
        except Exception:  # Re-raised in the parent, with this traceback.
            answers.append((False, traceback.format_exc()))
        if time.monotonic() - begin > FLUSH:
            yield answers
            answers, begin = [], time.monotonic()
    if answers:
        yield answers


def _receive_tasks(connection: Connection, messages: queue.SimpleQueue[Sequence[Any]]) -> None:
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        messages.put(message)
