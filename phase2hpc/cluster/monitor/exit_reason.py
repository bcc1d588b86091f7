"""Exit reason of a job: from Slurm's record where there is one, else from the job's log."""

from __future__ import annotations

import pwd
import re
import signal
from datetime import datetime
from pathlib import Path

from phase2hpc.cluster.monitor.logs import last_lines, log_file, ranks
from phase2hpc.cluster.slurm.jobs import JobState
from phase2hpc.cluster.slurm.parsing import parse_time

_LINES = 200
MAX_CLOCK_SKEW_SECONDS = 10
# Slurm's "signal" of a batch script whose log the node could not open: its error number.
_LOG_NOT_OPENED = 128 + 53
# Messages of Slurm and the kernel when they end a job, and the state that each means.
_NOTICES = (
    (re.compile(r"oom[-_ ]kill|exceeded (job|step) memory limit", re.I), "OUT_OF_MEMORY"),
    (re.compile(r"DUE TO TIME LIMIT"), "TIMEOUT"),
    (re.compile(r"DUE TO NODE FAILURE|DUE TO NODE .* NOT RESPONDING"), "NODE_FAIL"),
    (re.compile(r"DUE TO PREEMPTION"), "PREEMPTED"),
    (re.compile(r"(JOB|STEP) \S+ ON \S+ CANCELLED AT"), "CANCELLED"),
)
_AT = re.compile(r" CANCELLED AT (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")
# An error of phase2hpc, of Python, of srun, and of Apptainer.
_ERROR = re.compile(
    r"^(phase2hpc: (?!WARNING|INFO)(?P<phase2hpc>.+)"
    r"|(?P<python>[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)(: .*)?)"
    r"|srun: (error|fatal): (?P<srun>.+)"
    r"|FATAL: +(?P<container>.+))$"
)


def exit_reason(
    job: JobState | None,
    folder: Path | None,
    job_id: str,
    last_seen: datetime | None = None,
    *,
    profile: str = "PROFILE",
) -> str:
    """The reason, in one line.

    job: Slurm's record, None where it has none. folder: of the logs. last_seen: when the run was
    last known to be alive; earlier messages of the log belong to an earlier start of the job.
    profile: the site profile's name, for advice.
    """
    notice, error = _reason_in_log(folder, job_id, last_seen)
    if job is None:
        found = ": ".join(part for part in (notice, error) if part)
        return f"its log says {found}" if found else "its log gives no reason"
    reason = reason_of_slurm(job)
    if job.state == "FAILED" and folder is not None:
        unopened = job.exit_code == _LOG_NOT_OPENED
        # Where a node can make the missing folder, the log is on a disk of its own.
        if unopened or not ranks(folder, job_id):
            how = "cannot write its log in" if unopened else "has written no log in"
            end = "FAILED" if unopened else reason
            return (
                f"{end}: node {job.nodes or 'unknown'} {how} {folder}: "
                f"does it see that folder? phase2hpc doctor --profile {profile} --on-node checks it"
            )
    if notice == "OUT_OF_MEMORY" and job.state != notice:
        reason = f"{notice} ({reason})"
    # The log of a job that Slurm ended says no more than that.
    return f"{reason}: {error}" if error and job.state in ("FAILED", "COMPLETED") else reason


def reason_of_slurm(job: JobState) -> str:
    """End of a job in words, from Slurm's record of it."""
    if job.state == "CANCELLED" and job.reason == "DependencyNeverSatisfied":
        return "CANCELLED by Slurm"
    if job.state == "CANCELLED":
        user = re.fullmatch(r"by (\d+)", job.reason)
        return f"CANCELLED by {_user(int(user[1]))}" if user else "CANCELLED"
    reason = job.state
    if job.state == "NODE_FAIL" and job.nodes:
        reason += f" (of {job.nodes})"
    if job.state == "FAILED" and job.exit_code is not None:
        code = job.exit_code
        killed = 128 < code <= 128 + signal.NSIG
        reason += f", killed by {signal_name(code - 128)}" if killed else f", exit code {code}"
    return reason


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the number for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"signal {number}"


def _is_before(line: str, last_seen: datetime) -> bool:
    """True if a node wrote this message of Slurm's well before ``last_seen``."""
    match = _AT.search(line)
    when = parse_time(match[1]) if match else None
    return when is not None and when.timestamp() < last_seen.timestamp() - MAX_CLOCK_SKEW_SECONDS


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return f"user {number}"


def _reason_in_log(folder: Path | None, job_id: str, last_seen: datetime | None) -> tuple[str, str]:
    """Slurm's message and the last error; '' where there is none."""
    if folder is None:
        return "", ""
    notice = error = launcher_error = ""
    for rank in ranks(folder, job_id):
        lines = last_lines(log_file(folder, job_id, rank, err=True), _LINES)
        for line in reversed(lines):
            if last_seen is not None and _is_before(line, last_seen):
                break
            notice = notice or next(
                (state for pattern, state in _NOTICES if pattern.search(line)), ""
            )
            match = _ERROR.match(line)
            error = error or (match and (match["phase2hpc"] or match["python"])) or ""
            # The last and the least specific.
            of_launcher = match and (match["srun"] or match["container"])
            launcher_error = launcher_error or of_launcher or ""
        if notice or error:
            break
    return notice, error or launcher_error
