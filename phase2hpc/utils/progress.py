"""Progress of long work: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from phase2hpc.utils.time_format import format_duration

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Count of ``unit`` done out of ``total`` (None: unknown); a context manager.

    If stderr is not a terminal, one line is printed every ten seconds. With ``quiet`` nothing is
    printed.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, *, done: int = 0, quiet: bool = False
    ) -> None:
        self.label, self.total, self.unit, self.quiet = label, total, unit, quiet
        self.done = self._first = done
        self._bar: Any = None
        self._begin = self._last_drawn = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.done, text="", rate=""
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int, text: Callable[[], str] | None = None) -> None:
        """Add ``count``. ``text`` returns the end of the line, called only if it is drawn."""
        self.done += count
        now = time.monotonic()
        if self.quiet or now - self._last_drawn < (
            0.2 if self._bar is not None else SECONDS_BETWEEN_LINES
        ):
            return
        self._last_drawn = now
        end = text() if text is not None else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, text=end, rate=self._rate(now))
        else:
            print(self._line(now, end), file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._begin

    @property
    def per_second(self) -> float:
        """Rate since the work began."""
        seconds = self.seconds
        return (self.done - self._first) / seconds if seconds > 0 else 0.0

    def _rate(self, now: float) -> str:
        return f"{self.per_second:,.0f} {self.unit}/s" if now > self._begin else ""

    def _line(self, now: float, end: str) -> str:
        share = f" of {self.total:,}" if self.total else ""
        line = f"{self.label}: {self.done:,}{share} {self.unit}, {self._rate(now)}"
        if self.total and self.per_second > 0:
            line += f", {format_duration((self.total - self.done) / self.per_second)} left"
        return f"{line}, {end}" if end else line
