"""Why a job ended: Slurm's word where it still has one, else what stands in the job's log."""

from __future__ import annotations

import pwd
import re
from datetime import datetime
from pathlib import Path

from phase2hpc.cluster.monitor.logs import last_lines, log_file, ranks
from phase2hpc.cluster.slurm.jobs import JobState
from phase2hpc.cluster.slurm.parsing import local_time

_LINES = 200
# Two clocks of a cluster may be so far apart.
CLOCKS_SECONDS = 10
# What Slurm and the kernel write into a log when they end a job, as Slurm's states.
_NOTICES = (
    (re.compile(r"oom[-_ ]kill|exceeded (job|step) memory limit", re.I), "OUT_OF_MEMORY"),
    (re.compile(r"DUE TO TIME LIMIT"), "TIMEOUT"),
    (re.compile(r"DUE TO NODE FAILURE|DUE TO NODE .* NOT RESPONDING"), "NODE_FAIL"),
    (re.compile(r"DUE TO PREEMPTION"), "PREEMPTED"),
    (re.compile(r"(JOB|STEP) \S+ ON \S+ CANCELLED AT"), "CANCELLED"),
)
_AT = re.compile(r" CANCELLED AT (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")
# An error of ours, of python's, and of srun's about a process.
_ERROR = re.compile(
    r"^(phase2hpc: (?!WARNING|INFO)(?P<ours>.+)"
    r"|(?P<python>[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)(: .*)?)"
    r"|srun: error: (?P<srun>.+))$"
)


def exit_reason(
    job: JobState | None, folder: Path | None, job_id: str, lived: datetime | None = None
) -> str:
    """The reason in a few words, one line.

    job: Slurm's record, None where it has none. lived: when the run was last known to live; what
    the log tells of a time before that ended an earlier life of the job.
    """
    notice, error = _log_says(folder, job_id, lived)
    if job is None:
        found = ": ".join(words for words in (notice, error) if words)
        return f"by its log {found}" if found else "its log does not say why"
    words = _slurm_says(job)
    if notice == "OUT_OF_MEMORY" and job.state != notice:
        words = f"{notice} ({words})"
    # Of what Slurm ended, the log only tells that it was ended.
    return f"{words}: {error}" if error and job.state in ("FAILED", "COMPLETED") else words


def _slurm_says(job: JobState) -> str:
    if job.state == "CANCELLED":
        who = re.fullmatch(r"by (\d+)", job.reason)
        return f"CANCELLED by {_user(int(who[1]))}" if who else "CANCELLED"
    words = job.state
    if job.state == "NODE_FAIL" and job.nodes:
        words += f" (of {job.nodes})"
    if job.state == "FAILED" and job.exit_code is not None:
        code = job.exit_code
        words += f", exit code {code}" if code <= 128 else f", killed by signal {code - 128}"
    return words


def _is_before(line: str, lived: datetime) -> bool:
    """Whether Slurm wrote this line, by the clock of a node, well before."""
    match = _AT.search(line)
    when = local_time(match[1]) if match else None
    return when is not None and when.timestamp() < lived.timestamp() - CLOCKS_SECONDS


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return f"user {number}"


def _log_says(folder: Path | None, job_id: str, lived: datetime | None) -> tuple[str, str]:
    """Slurm's notice and the last error; '' where there is none."""
    if folder is None:
        return "", ""
    notice = error = of_srun = ""
    for rank in ranks(folder, job_id):
        lines = last_lines(log_file(folder, job_id, rank, err=True), _LINES)
        for line in reversed(lines):
            if lived is not None and _is_before(line, lived):
                break
            notice = notice or next((word for rule, word in _NOTICES if rule.search(line)), "")
            match = _ERROR.match(line)
            error = error or (match and (match["ours"] or match["python"])) or ""
            # Comes last and says least.
            of_srun = of_srun or (match and match["srun"]) or ""
        if notice or error:
            break
    return notice, error or of_srun
