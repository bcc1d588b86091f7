"""Run one Slurm command and return its output.

The user's format and filter variables are removed, so that the output has one form from Slurm
22.05 on. A command that fails raises Phase2Error with Slurm's message.
"""

from __future__ import annotations

import os
import re
import subprocess

from phase2hpc.cluster.slurm.clusters import VARIABLE
from phase2hpc.errors import Phase2Error
from phase2hpc.utils.command import run_command

TIMEOUT_SECONDS = 30.0
_NAMES = "sbatch|srun|squeue|sacct|scancel|scontrol|sinfo|slurmctld"
# The user's filters and formats would change the output.
_FORMAT_VARIABLES = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_")
_FIXED_FORMAT = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}


class SlurmError(Phase2Error):
    """A Slurm command failed; ``reason`` is its own message."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"{command}: {reason}")
        self.reason = reason


class SlurmUnavailable(SlurmError):
    """The controller or slurmdbd is down, busy or unreachable."""


class UnknownJob(SlurmError):
    """Slurm has no record of the job, or it has ended."""


class AccountingDisabled(SlurmError):
    """The cluster keeps no accounting."""


# Slurm's commands exit with 1 for everything: their messages are all that tells errors apart.
_KINDS: tuple[tuple[str, type[SlurmError]], ...] = (
    ("accounting storage is disabled", AccountingDisabled),
    ("invalid job id|already complet", UnknownJob),
    ("contact slurm|socket timed out|connection refused|zero bytes|unable to connect"
     "|connection failure", SlurmUnavailable),
)  # fmt: skip


def error_of(command: str, reason: str) -> SlurmError:
    """The error that a command's message stands for."""
    kind = next((kind for words, kind in _KINDS if re.search(words, reason.lower())), SlurmError)
    return kind(command, reason)


def message_of(stderr: str) -> str:
    """The messages of a Slurm command in one line, each once, without command name and level."""
    lines = [
        re.sub(rf"^({_NAMES}): ?((error|fatal): ?)?|^(error|fatal): ?", "", line.strip())
        for line in stderr.splitlines()
    ]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def environment_outside_jobs() -> dict[str, str]:
    """The environment without the variables of a job that this process may run in."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    kept = ("SLURM_CONF", VARIABLE)
    return {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in kept}


def run_slurm(
    command: str,
    *arguments: str,
    output: str = "stdout",
    timeout: float | None = None,
    cluster: str | None = None,
) -> str:
    """Output of the command on ``output``. timeout: seconds, default TIMEOUT_SECONDS.

    cluster: which to ask, '' for the one of this machine, None for that of ``SLURM_CLUSTERS``.

    Raises Phase2Error if it fails, is missing, or does not answer in time.
    """
    limit = TIMEOUT_SECONDS if timeout is None else timeout
    environment = {
        k: v for k, v in environment_outside_jobs().items() if not k.startswith(_FORMAT_VARIABLES)
    }
    if cluster is not None:
        environment[VARIABLE] = cluster
        if not cluster:
            del environment[VARIABLE]
    try:
        done = run_command([command, *arguments], limit, environment | _FIXED_FORMAT)
    except FileNotFoundError:
        raise Phase2Error(
            f"{command}: not found: no Slurm on this machine, or not on PATH"
        ) from None
    except subprocess.TimeoutExpired:
        reason = f"no answer within {limit:g} s: Slurm's controller is busy or down"
        raise SlurmUnavailable(command, reason) from None
    except OSError as error:
        raise Phase2Error(f"{command}: cannot be started ({error.strerror})") from None
    if done.returncode:
        reason = message_of(done.stderr) or f"failed with exit code {done.returncode}"
        raise error_of(command, reason)
    return done.stdout if output == "stdout" else " ".join(done.stderr.split())
