"""The errors a user meets, and the exit code of each (README, "Exit codes")."""


class Phase2Error(Exception):
    """Something went wrong that is not the user's input; the message is one line."""

    exit_code = 1
    # Whether another process of the same run tells it: then this one only ends with its code.
    already_reported = False


class InputError(Phase2Error):
    """The user's input is wrong: the message says what, where and what to do, in one line."""

    exit_code = 2


class StoppedEarly(Phase2Error):
    """A signal or a time limit stopped the work; its state is saved, ``--resume`` goes on."""

    exit_code = 75
