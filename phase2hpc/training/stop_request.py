"""When to stop before the end: a signal or a time limit. Handlers only set a flag.

No torch here: a command catches signals with it before the seconds that importing torch takes.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)

# Those entered now, the outermost first: what one was asked, those inside it are asked too.
_entered: list[StopRequest] = []


# The reasons for a stop by a time limit: a batch job's own, after which it is requeued, and the
# user's, ``--max-hours``.
JOB_ENDS = "the job's time limit is near (it is requeued to go on)"


def hours_over(max_hours: float) -> str:
    return f"--max-hours {max_hours:g} are over"


class StopRequest:
    """A flag that signals and time limits raise; long work looks at it between its steps.

    While entered, SIGUSR2, SIGTERM and SIGINT set the flag and do nothing else: a checkpoint
    written inside a handler could find the state half changed. A second SIGINT interrupts at
    once, for somebody at a terminal who does not want to wait.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        outer = _entered[-1] if _entered else None
        self.reason: str | None = outer.reason if outer else None
        self._began: float = outer._began if outer else time.monotonic()
        self._previous: dict[signal.Signals, Any] = {}
        self.limit(max_hours)

    def limit(self, max_hours: float | None, job_hours: float | None = None) -> None:
        """Stop after so many hours, counted from the outermost request's beginning: the user's
        limit, and that of the job, whichever comes first."""
        hours = {} if max_hours is None else {hours_over(max_hours): max_hours}
        if job_hours is not None:
            hours[JOB_ENDS] = job_hours
        self._limits = sorted((self._began + 3600 * hours[reason], reason) for reason in hours)

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
            # None: a handler that was not installed from Python, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def __bool__(self) -> bool:
        if self.reason is None and self._limits:
            moment, reason = self._limits[0]
            if time.monotonic() > moment:
                self.reason = reason
        return self.reason is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.reason == name:
            raise KeyboardInterrupt
        for request in _entered:
            request.reason = name
