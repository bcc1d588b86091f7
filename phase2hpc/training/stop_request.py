"""Stop requests by signal or time limit; handlers only set a flag.

Imports no torch: commands install the handlers before the import of torch, which takes seconds.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, NamedTuple, Self

from phase2hpc.errors import StopReason
from phase2hpc.utils.time_format import format_duration

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
JOB_TIME_LIMIT_MESSAGE = "the job's time limit is near"

# Active requests, the outermost first; a signal sets the flag of each.
_entered: list[StopRequest] = []


def max_hours_message(max_hours: float) -> str:
    return f"--max-hours reached ({format_duration(3600 * max_hours)})"


class StopCause(NamedTuple):
    """Reason of a stop, with its text for messages (signal name or limit)."""

    reason: StopReason
    message: str


class StopRequest:
    """Flag set by signals and time limits, polled by long computations between steps.

    While the context is active, SIGUSR2, SIGTERM and SIGINT only set the flag: a checkpoint written
    inside a handler could contain a partially updated state. A second SIGINT raises
    KeyboardInterrupt, for a user at a terminal.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        outer = _entered[-1] if _entered else None
        self.cause: StopCause | None = outer.cause if outer else None
        self._began: float = outer._began if outer else time.monotonic()
        self._previous: dict[signal.Signals, Any] = {}
        self.limit(max_hours)

    def limit(self, max_hours: float | None, job_hours: float | None = None) -> None:
        """Stop at the user's time limit or the job's, whichever comes first.

        Hours count from the beginning of the outermost request; None: no limit.
        """
        hours = {}
        if max_hours is not None:
            hours[StopCause(StopReason.MAX_HOURS, max_hours_message(max_hours))] = max_hours
        if job_hours is not None:
            hours[StopCause(StopReason.JOB_TIME_LIMIT, JOB_TIME_LIMIT_MESSAGE)] = job_hours
        self._limits = sorted((self._began + 3600 * hours[cause], cause) for cause in hours)

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only; elsewhere the time limit still holds.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
            _entered.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self in _entered:
            _entered.remove(self)
        for number, handler in self._previous.items():
            # None: a handler that was not installed from Python, which Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def __bool__(self) -> bool:
        if self.cause is None and self._limits:
            moment, cause = self._limits[0]
            if time.monotonic() > moment:
                self.cause = cause
        return self.cause is not None

    @property
    def message(self) -> str | None:
        """Text of the cause; None where no stop is requested."""
        return None if self.cause is None else self.cause.message

    def _handle(self, number: int, frame: FrameType | None) -> None:
        cause = StopCause(StopReason.SIGNAL, signal.Signals(number).name)
        if number == signal.SIGINT and self.cause == cause:
            raise KeyboardInterrupt
        for request in _entered:
            request.cause = cause
