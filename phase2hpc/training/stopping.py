"""When to stop before the end: a signal or the time limit. Handlers only set a flag.

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


def hours_over(max_hours: float) -> str:
    """The reason for a stop by the time limit."""
    return f"--max-hours {max_hours:g} are over"


class StopRequest:
    """A flag that signals and a time limit raise; long work looks at it between its steps.

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

    def limit(self, max_hours: float | None) -> None:
        """Stop after so many hours, counted from the outermost request's beginning."""
        self._max_hours = max_hours
        self._deadline = None if max_hours is None else self._began + 3600 * max_hours

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
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            assert self._max_hours is not None
            self.reason = hours_over(self._max_hours)
        return self.reason is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.reason == name:
            raise KeyboardInterrupt
        for request in _entered:
            request.reason = name
