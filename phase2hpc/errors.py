"""Exceptions with their exit codes, and the exit codes of the command line."""

# As a shell reports a command that SIGINT ended.
INTERRUPTED = 130


class Phase2Error(Exception):
    """An expected failure other than wrong input; the message is one line."""

    exit_code = 1
    # Another process of the same run reports it: this one only exits with its code.
    already_reported = False


class InputError(Phase2Error):
    """Wrong user input: the message says what is wrong, where, and what to do, in one line."""

    exit_code = 2


class StoppedEarly(Phase2Error):
    """Work stopped by a signal or a time limit, with its state saved for ``--resume``."""

    exit_code = 75
