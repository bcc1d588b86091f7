"""Job ids of Slurm (``12``, array element ``12_3``) and the local executor (``local-ab12``)."""

from __future__ import annotations

import os
import re
import secrets

_SLURM = re.compile(r"\d+(_\d+)?")
_LOCAL = re.compile(r"local-[0-9a-f]{1,32}(_\d+)?")


def is_slurm_job_id(text: str) -> bool:
    """True if Slurm could have given this id to a job or to an array element."""
    return _SLURM.fullmatch(text) is not None


def is_job_id(text: str) -> bool:
    """True if Slurm or the local executor could have given this id."""
    return is_slurm_job_id(text) or _LOCAL.fullmatch(text) is not None


def array_id(job_id: str) -> str:
    """The id of the array that an element belongs to; any other job's own id."""
    return job_id.partition("_")[0]


def new_local_job_id() -> str:
    """A random id for the local executor."""
    return f"local-{secrets.token_hex(4)}"


def current_job_id() -> str | None:
    """Slurm's id of the job that this process belongs to; None outside of a job."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID") or None
