"""One command of Slurm's, and its answer.

The user's own format and filter variables are left out, so that answers are the same text from
22.05 on. A command that fails is one Phase2Error with Slurm's own words.
"""

from __future__ import annotations

import os
import re
import subprocess

from phase2hpc.errors import Phase2Error

TIMEOUT_SECONDS = 30.0
# Filters and formats of the user's would change what is asked, the last what is answered.
_USERS_OWN = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_")
_PLAIN = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}


def ask(
    command: str, *arguments: str, answer_on: str = "stdout", timeout: float | None = None
) -> str:
    """What it writes to ``answer_on``. timeout: seconds, TIMEOUT_SECONDS if left out.

    Raises Phase2Error where it fails, does not answer in time, or is not there.
    """
    limit = TIMEOUT_SECONDS if timeout is None else timeout
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_USERS_OWN)}
    try:
        done = subprocess.run(
            [command, *arguments],
            env=environment | _PLAIN,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except FileNotFoundError:
        raise Phase2Error(
            f"{command}: not found: no Slurm on this machine, or not on PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise Phase2Error(
            f"{command}: no answer within {limit:g} s: Slurm's controller is busy or down"
        ) from None
    except OSError as error:
        raise Phase2Error(f"{command}: cannot be started ({error.strerror})") from None
    if done.returncode:
        said = [re.sub(rf"^{command}: ?", "", line.strip()) for line in done.stderr.splitlines()]
        said = [re.sub(r"^(error|fatal): ?", "", line) for line in said if line]
        words = "; ".join(dict.fromkeys(said))
        raise Phase2Error(f"{command}: {words or f'failed with exit code {done.returncode}'}")
    return done.stdout if answer_on == "stdout" else " ".join(done.stderr.split())
