"""Local executor: the calls of a batch job on this machine, one after the other.

Scripts, pickles and logs have the same places as those of a Slurm job. The processes write to the
log files, and this one shows what is appended: if it is killed, they continue.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from submitit.core import utils

from phase2hpc.cluster.node.train_task import MAX_HOURS_EXIT_CODE, RESTARTS_VARIABLE
from phase2hpc.cluster.submit.slurm_executor import Call, JobScript
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.runs.job_id import new_local_job_id
from phase2hpc.training.stop_request import StopRequest

_POLL_SECONDS = 0.2
# Time for the other processes of a run to exit after one has failed.
_GRACE_SECONDS = 30


def local_text(script: JobScript) -> str:
    """The script of every process: as under Slurm, without srun and requeue."""
    command = [f"exec {script.command}"]
    if script.teardown:
        # The signal that ends the command is for the whole process group.
        command = ["trap : TERM", script.command, "code=$?", *script.teardown, 'exit "$code"']
    lines = [*script.setup, *script.environment_check()]
    return "\n".join(
        ["#!/bin/bash", "", "# setup", *lines, "", "# command",
         "export SUBMITIT_EXECUTOR=local", *command, ""]
    )  # fmt: skip


def run_calls(
    script: JobScript,
    calls: Sequence[Call],
    processes: int,
    before_start: Callable[[list[str]], None],
) -> None:
    """Run each call, restarting one that exits with 75 by itself.

    ``before_start`` is called with all ids. Raises StoppedEarly after a signal, and, once all
    calls have been tried, Phase2Error if some failed.
    """
    name = new_local_job_id()
    ids = [name if script.count is None else f"{name}_{i}" for i in range(len(calls))]
    script.folder.mkdir(parents=True, exist_ok=True)
    for job_id, (function, arguments) in zip(ids, calls, strict=True):
        utils.DelayedSubmission(function, *arguments).dump(
            utils.JobPaths(script.folder, job_id).submitted_pickle
        )
    file = utils.JobPaths(script.folder, ids[0]).submission_file
    file.write_bytes(os.fsencode(local_text(script)))
    before_start(ids)
    failed: list[str] = []
    codes: set[int] = set()
    stopped: list[str] = []
    with StopRequest() as stop:
        for job_id in ids:
            code, restarts = StoppedEarly.exit_code, 0
            while code == StoppedEarly.exit_code:
                code = _attempt(script.folder, file, job_id, processes, restarts, stop)
                if stop:
                    raise StoppedEarly(
                        f"{stop.message}: stopped; its state is saved, continue with --resume"
                    )
                restarts += 1
            if code == MAX_HOURS_EXIT_CODE:
                stopped.append(job_id)
            elif code:
                codes.add(code)
                log = utils.JobPaths(script.folder, job_id, 0).stderr
                failed.append(f"{job_id} exited with code {code}, its log is {log}")
    if failed:
        error = InputError if codes == {InputError.exit_code} else Phase2Error
        listed = "; ".join(failed[:3]) + ("; ..." if len(failed) > 3 else "")
        raise error(f"{len(failed)} of {len(ids)} failed: {listed}")
    if stopped:
        raise StoppedEarly(f"{', '.join(stopped)}: stopped by --max-hours, continue with --resume")


def _attempt(
    folder: Path, file: Path, job_id: str, processes: int, restarts: int, stop: StopRequest
) -> int:
    """Run the processes of a call and show the output of rank 0; returns the exit code."""
    port = _free_port()
    with ExitStack() as stack:
        running = []
        tails: list[tuple[IO[bytes], IO[str]]] = []
        for rank in range(processes):
            paths = utils.JobPaths(folder, job_id, rank)
            out, err = (
                stack.enter_context(path.open("ab")) for path in (paths.stdout, paths.stderr)
            )
            if rank == 0:
                for path, stream in ((paths.stdout, sys.stdout), (paths.stderr, sys.stderr)):
                    log = stack.enter_context(path.open("rb"))
                    log.seek(0, os.SEEK_END)
                    tails.append((log, stream))
            running.append(
                subprocess.Popen(
                    ["bash", str(file)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=os.environ | _variables(job_id, rank, processes, restarts, port),
                    # Out of the terminal's process group: each signal is forwarded once.
                    start_new_session=True,
                )
            )
        try:
            _wait(running, tails, stop)
        except BaseException:
            _signal(running, signal.SIGKILL)
            raise
        finally:
            _show(tails)
        # The largest; of a killed process 128 plus the signal, as in a shell.
        return max(128 - code if code < 0 else code for code in (p.wait() for p in running))


def _wait(
    running: list[subprocess.Popen[bytes]],
    tails: list[tuple[IO[bytes], IO[str]]],
    stop: StopRequest,
) -> None:
    signalled, deadline = False, float("inf")
    while any(process.poll() is None for process in running):
        _show(tails)
        if stop and not signalled:
            _signal(running, signal.SIGTERM)
            signalled = True
        if deadline == float("inf") and any(process.poll() for process in running):
            deadline = time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > deadline:
            _signal(running, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _signal(running: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, number)


def _show(tails: list[tuple[IO[bytes], IO[str]]]) -> None:
    for log, stream in tails:
        stream.write(log.read().decode(errors="replace"))
        stream.flush()


def _variables(job_id: str, rank: int, processes: int, restarts: int, port: int) -> dict[str, str]:
    variables = {
        "SUBMITIT_LOCAL_JOB_ID": job_id,
        "SUBMITIT_LOCAL_NTASKS": str(processes),
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_GLOBALID": str(rank),
        "SUBMITIT_LOCAL_LOCALID": str(rank),
        RESTARTS_VARIABLE: str(restarts),
    }
    if processes > 1:
        variables |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    return variables


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
