"""When to stop before the end: a signal or the time limit. Handlers only set a flag."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A flag that signals and a time limit raise; the training loop looks at it between steps.

    While entered, SIGUSR2, SIGTERM and SIGINT set the flag and do nothing else: a checkpoint
    written inside a handler could find the state half changed. A second SIGINT interrupts at
    once, for somebody at a terminal who does not want to wait.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.reason: str | None = None
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._max_hours = max_hours
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only; elsewhere the time limit still holds.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None: a handler that was not installed from Python, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def __bool__(self) -> bool:
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = f"--max-hours {self._max_hours:g} are over"
        return self.reason is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.reason == name:
            raise KeyboardInterrupt
        self.reason = name
