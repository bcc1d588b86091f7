"""The ``local`` executor: the same calls on this machine, one after the other, in the foreground.

Scripts, pickles and logs lie where those of a Slurm job would. What runs writes to the log files
itself, and this process shows what comes: should it be killed, the work goes on.
"""

from __future__ import annotations

import os
import secrets
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

from phase2hpc.cluster.node.train_task import RESTARTS_VARIABLE, STOPPED_FOR_GOOD
from phase2hpc.cluster.submit.slurm_executor import Call, JobScript
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.training.stop_request import StopRequest

_POLL_SECONDS = 0.2
# What processes of a run have to end after one of them failed, or after a second signal.
_GRACE_SECONDS = 30


def local_text(script: JobScript) -> str:
    """What every process runs: as under Slurm, but for srun and the requeue."""
    lines = [*script.setup, *script.environment_check()]
    return "\n".join(
        ["#!/bin/bash", "", "# setup", *lines, "", "# command",
         "export SUBMITIT_EXECUTOR=local", f"exec {script.command}", ""]
    )  # fmt: skip


def run_calls(
    script: JobScript,
    calls: Sequence[Call],
    processes: int,
    before_start: Callable[[list[str]], None],
) -> None:
    """Run each call to its end, again where it stopped early by itself.

    ``before_start`` is called with the ids of all. Raises StoppedEarly after a signal, and
    Phase2Error where some failed, once all have been tried.
    """
    name = f"local-{secrets.token_hex(4)}"
    ids = [name if script.count is None else f"{name}_{i}" for i in range(len(calls))]
    script.folder.mkdir(parents=True, exist_ok=True)
    for job_id, (function, arguments) in zip(ids, calls, strict=True):
        utils.DelayedSubmission(function, *arguments).dump(
            utils.JobPaths(script.folder, job_id).submitted_pickle
        )
    file = utils.JobPaths(script.folder, ids[0]).submission_file
    file.write_text(local_text(script))
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
                        f"{stop.message}: stopped; its state is saved, go on with --resume"
                    )
                restarts += 1
            if code == STOPPED_FOR_GOOD:
                stopped.append(job_id)
            elif code:
                codes.add(code)
                log = utils.JobPaths(script.folder, job_id, 0).stderr
                failed.append(f"{job_id} ended with exit code {code}, its log is {log}")
    if failed:
        error = InputError if codes == {InputError.exit_code} else Phase2Error
        told = "; ".join(failed[:3]) + ("; ..." if len(failed) > 3 else "")
        raise error(f"{len(failed)} of {len(ids)} failed: {told}")
    if stopped:
        raise StoppedEarly(f"{', '.join(stopped)}: stopped by --max-hours, go on with --resume")


def _attempt(
    folder: Path, file: Path, job_id: str, processes: int, restarts: int, stop: StopRequest
) -> int:
    """Start the processes of a call, show what the first one writes, and wait; the exit code."""
    port = _free_port()
    with ExitStack() as stack:
        running = []
        shown: list[tuple[IO[bytes], IO[str]]] = []
        for rank in range(processes):
            paths = utils.JobPaths(folder, job_id, rank)
            out, err = (
                stack.enter_context(path.open("ab")) for path in (paths.stdout, paths.stderr)
            )
            if rank == 0:
                for path, stream in ((paths.stdout, sys.stdout), (paths.stderr, sys.stderr)):
                    log = stack.enter_context(path.open("rb"))
                    log.seek(0, os.SEEK_END)
                    shown.append((log, stream))
            running.append(
                subprocess.Popen(
                    ["bash", str(file)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=os.environ | _variables(job_id, rank, processes, restarts, port),
                    # Signals come from here, once, whether a terminal or a process sent them.
                    start_new_session=True,
                )
            )
        try:
            _wait(running, shown, stop)
        except BaseException:
            _signal(running, signal.SIGKILL)
            raise
        finally:
            _show(shown)
        # The worst of all; what a signal ended counts as a shell counts it.
        return max(128 - code if code < 0 else code for code in (p.wait() for p in running))


def _wait(
    running: list[subprocess.Popen[bytes]],
    shown: list[tuple[IO[bytes], IO[str]]],
    stop: StopRequest,
) -> None:
    told, deadline = False, float("inf")
    while any(process.poll() is None for process in running):
        _show(shown)
        if stop and not told:
            _signal(running, signal.SIGTERM)
            told = True
        if deadline == float("inf") and any(process.poll() for process in running):
            deadline = time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > deadline:
            _signal(running, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _signal(running: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, number)


def _show(shown: list[tuple[IO[bytes], IO[str]]]) -> None:
    for log, stream in shown:
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
