"""A function of files from anywhere, in a process that a hostile one can neither hold up nor take
down with others: what it may use of time and memory is limited, also inside C code."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from phase2hpc.utils.error_text import type_and_message
from phase2hpc.utils.rlimits import die_quietly, limit_memory
from phase2hpc.utils.worker_pool import Worker, WorkerDied

Task = TypeVar("Task")
Result = TypeVar("Result")

# Seconds: the largest CIF that is read takes a few, a stalled file system some more.
TIME_LIMIT = 60.0
# Bytes a process may take beyond what it starts with: twice what the worst CIF of the largest size
# was seen to take.
MEMORY_LIMIT = 2 * 2**30
# Tasks sent before the first answer is waited for, so that neither side waits for the other.
AHEAD = 16


def sandboxed_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    failed: Callable[[Task, str], Result],
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
) -> Iterator[Result]:
    """``function`` (picklable) of each task, in order, in one other process.

    ``failed(task, reason)`` stands where a task took longer than ``time_limit`` seconds, needed
    more than ``memory_limit`` bytes, or crashed the process; the next ones go to a fresh process.
    The defaults are TIME_LIMIT and MEMORY_LIMIT.
    """
    seconds = TIME_LIMIT if time_limit is None else time_limit
    limited = _Limited(function, MEMORY_LIMIT if memory_limit is None else memory_limit)
    waiting = iter(tasks)
    pending: deque[Task] = deque()
    process: _SandboxWorker | None = None
    try:
        while True:
            new = [task for _, task in zip(range(AHEAD - len(pending)), waiting, strict=False)]
            if process is not None:
                process.send_all(new)
            pending.extend(new)
            if not pending:
                return
            if process is None:
                process = _SandboxWorker(limited)
                process.send_all(pending)
            try:
                answer = process.receive_within(seconds)
            except (TimeoutError, WorkerDied) as error:
                process.close()
                process = None
                answer = _Failed(str(error))
            task = pending.popleft()
            yield failed(task, answer.reason) if isinstance(answer, _Failed) else answer
    finally:
        if process is not None:
            process.close()


@dataclass(frozen=True)
class _Failed:
    reason: str


@dataclass(frozen=True)
class _Limited(Generic[Task, Result]):
    """``function``, and the limit that the process takes which this is sent to."""

    function: Callable[[Task], Result]
    memory: int

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        die_quietly()
        limit_memory(self.memory)

    def __call__(self, task: Task) -> Result | _Failed:
        try:
            return self.function(task)
        except MemoryError:
            return _Failed(f"too much memory: reading it needs more than {self.memory >> 20} MiB")
        except Exception as error:  # Said in the task's place: the other tasks are not lost by it.
            detail = type_and_message(error)
            return _Failed(f"internal error: {detail}; please report it with the file")


class _SandboxWorker(Worker):
    """A worker that is not waited for longer than so many seconds."""

    def send_all(self, tasks: Iterable[Any]) -> None:
        # Its last answers may still be on the way: what it died of is said by receive_within.
        with contextlib.suppress(WorkerDied):
            for task in tasks:
                self.send(task)

    def receive_within(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise TimeoutError(f"too slow: reading it takes more than {seconds:g} s")
        try:
            return self.receive()
        except WorkerDied as error:
            raise WorkerDied(f"crashed the reader: {error}") from error
