"""Exceptions that end a command with one line, and their exit codes."""

from __future__ import annotations

from enum import StrEnum

# As a shell reports a command that SIGINT ended.
INTERRUPTED = 130


class Phase2Error(Exception):
    """A failure that is not the user's input; the message is one line."""

    exit_code = 1
    # True where another process of the same run prints the message; this one only exits.
    already_reported = False


class InputError(Phase2Error):
    """Wrong user input: the message says what, where and what to do, in one line."""

    exit_code = 2


class StopReason(StrEnum):
    """Cause of an early stop; a batch job is requeued after all but ``MAX_HOURS``."""

    SIGNAL = "signal"
    JOB_TIME_LIMIT = "job time limit"
    MAX_HOURS = "max hours"


class StoppedEarly(Phase2Error):
    """Work stopped by a signal or a time limit; its state is saved, ``--resume`` continues it."""

    exit_code = 75

    def __init__(self, message: str, reason: StopReason = StopReason.SIGNAL) -> None:
        super().__init__(message)
        self.reason = reason
