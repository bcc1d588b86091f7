"""Map a function over untrusted files in a child process with limits on time and memory.

A hostile file can neither stall nor crash the caller, also if the fault is inside of C code.

Pebble's ProcessPool has the same limits, but its workers run the user's script again (spawn) or
inherit threads (fork), and one that is busy outlives a parent that was killed.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from phase2hpc.utils.error_text import type_and_message
from phase2hpc.utils.rlimits import limit_memory, silence_crashes
from phase2hpc.utils.worker_pool import Worker, WorkerDied

Task = TypeVar("Task")
Result = TypeVar("Result")

# Seconds. The largest CIF that is accepted takes a few.
TIME_LIMIT = 60.0
# Bytes beyond what the process starts with: twice what the worst CIF of the largest accepted size
# was seen to need.
MEMORY_LIMIT = 2 * 2**30
# Tasks sent ahead, so that the process never waits for its parent. Half of them go in one message.
MAX_PENDING = 32


def sandboxed_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    failed: Callable[[Task, str], Result],
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
) -> Iterator[Result]:
    """Yield ``function(task)`` of each task in order; a picklable function, run in a child process.

    Yield ``failed(task, reason)`` for a task that takes longer than ``time_limit`` seconds
    (TIME_LIMIT; the start of its process does not count), needs more than ``memory_limit`` bytes
    (MEMORY_LIMIT), or crashes the process. The tasks after it go to a new process.
    """
    seconds = TIME_LIMIT if time_limit is None else time_limit
    limited = _Limited(function, MEMORY_LIMIT if memory_limit is None else memory_limit)
    waiting = iter(tasks)
    pending: deque[Task] = deque()
    # Tasks, the first of those pending, that go one by one: with one of them a process failed.
    suspects = 0
    process: _SandboxWorker | None = None
    try:
        while True:
            if len(pending) <= MAX_PENDING // 2:
                new = list(islice(waiting, MAX_PENDING - len(pending)))
                pending.extend(new)
                if process is not None and not suspects:
                    process.send_all(new)
            if not pending:
                return
            if process is None:
                process = _SandboxWorker(limited)
                if not suspects:
                    process.send_all(pending)
            if suspects:
                process.send_all([pending[0]])
            try:
                answer = process.receive_within(seconds)
            except (TimeoutError, WorkerDied) as error:
                process.close()
                process = None
                # Answers to tasks before it may have been lost.
                if not suspects and len(pending) > 1:
                    suspects = len(pending)
                    continue
                answer = _Failed(str(error))
            task = pending.popleft()
            if suspects:
                suspects -= 1
                if not suspects and process is not None:
                    process.send_all(pending)
            yield failed(task, answer.reason) if isinstance(answer, _Failed) else answer
    finally:
        if process is not None:
            process.close()


@dataclass(frozen=True)
class _Failed:
    reason: str


@dataclass(frozen=True)
class _Start:
    """The first task of a process: its answer shows that the process has started."""


@dataclass(frozen=True)
class _Limited(Generic[Task, Result]):
    """``function``, and the memory limit that its process sets when it receives this."""

    function: Callable[[Task], Result]
    memory: int

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        silence_crashes()
        limit_memory(self.memory)

    def __call__(self, task: Task | _Start) -> Result | _Failed | None:
        if isinstance(task, _Start):
            return None
        try:
            return self.function(task)
        except MemoryError:
            return _Failed(f"too much memory: reading it takes more than {self.memory >> 20} MiB")
        except Exception as error:  # One task must not fail the others.
            detail = type_and_message(error)
            return _Failed(f"internal error: {detail}; please report it with the file")


class _SandboxWorker(Worker):
    """A worker whose answers have a time limit."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(function)
        self._started = False
        self.send_all([_Start()])

    def send_all(self, tasks: Sequence[Any]) -> None:
        # Earlier answers may still be in the pipe; receive_within reports the death after them.
        with contextlib.suppress(WorkerDied):
            if tasks:
                self.send(*tasks)

    def receive_within(self, seconds: float) -> Any:
        try:
            if not self._started:
                self.receive()
                self._started = True
            if not self._answers and not self._connection.poll(seconds):
                raise TimeoutError(f"too slow: reading it takes more than {seconds:g} s")
            return self.receive()
        except WorkerDied as error:
            raise WorkerDied(f"crashed the reader: {error}") from error
