"""What Slurm, a lease and a log say of submitted runs."""

import json
import os
from datetime import UTC, datetime, timedelta

FAMILY = "multitask_lite_cgcnn"
DEAD = {"pid": 1, "process_start": "another boot"}
GONE = ("", "slurm_load_jobs error: Invalid job id specified\n", 1)
OOM = """\
phase2hpc: WARNING: something
slurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=7.0. Some of your processes may have \
been killed by the cgroup out-of-memory handler.
srun: error: n1: task 0: Out Of Memory
"""
LIMIT = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT {} DUE TO TIME LIMIT ***\n"


def in_queue(run, state, job="7", reason="None", code="0", elapsed="1:00", folder=None):
    folder = folder or (run.path / "job").resolve()
    return f"{job}|{state}|{code}|0|{elapsed}|9:00|N/A|n1|{reason}|{folder}/%j_0_log.out|\n"


def in_accounting(run, state, job="7", code="0:0"):
    line = f"sbatch --parsable {(run.path / 'job').resolve()}/.submission_file_ab.sh"
    return f"{job}|{state}|{code}|60|2026-11-24T01:50:29|n1|None|{line}\n"


def lease_elsewhere(run, seconds, job="7", **heartbeat):
    """The lease of a process on another machine that was renewed so long ago."""
    run.lease.mkdir()
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    record = {"token": "t", "host": "n1", "machine": "other", "pid": 5, "job_id": job,
              "expiry": 90.0, "renewed": then.isoformat(), "heartbeat": heartbeat}  # fmt: skip
    file = run.lease / "t.json"
    file.write_text(json.dumps(record))
    os.utime(file, (then.timestamp(), then.timestamp()))


def write_log(run, text, name="7_0_log.err", folder="job"):
    (run.path / folder / name).write_text(text)
