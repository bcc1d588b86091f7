"""Several processes started as torchrun, srun or nothing starts them, from a server that has
imported torch once."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["phase2hpc.training.runner", "phase2hpc.models.equivariant", "phase2hpc.models.cgcnn"]
)
_NUMBERS = itertools.count(os.getpid() * 1000)


def torchrun(rank: int, size: int, number: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(number),
    }  # fmt: skip


def srun(rank: int, size: int, number: int) -> dict[str, str]:
    """A step of one node in a job of several."""
    return {
        "SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "m[1-4]", "SLURM_NTASKS": "8",
        "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "m2", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
    }  # fmt: skip


class Ranks:
    """``size`` processes that call ``function(*arguments)``; a context manager that kills them.

    Their output goes to one file, as on a terminal.
    """

    def __init__(
        self,
        size: int,
        log: Path,
        function: Callable[..., Any],
        *arguments: Any,
        launcher: Callable[[int, int, int], Mapping[str, str]] = torchrun,
    ) -> None:
        self.log = log
        log.write_text("")
        number = next(_NUMBERS)
        self.processes: list[BaseProcess] = [
            _CONTEXT.Process(
                target=_run, args=(launcher(rank, size, number), log, function, arguments)
            )
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def codes(self, seconds: float = 60.0) -> list[int | None]:
        """Their exit codes; fails where they take longer."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        assert all(p.exitcode is not None for p in self.processes), f"hang\n{self.text()}"
        return [process.exitcode for process in self.processes]

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        """Until they have printed this."""
        deadline = time.monotonic() + seconds
        while words not in self.text():
            assert time.monotonic() < deadline and any(p.is_alive() for p in self.processes), (
                self.text()
            )
            time.sleep(0.02)

    def text(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[str]:
        return [line for line in self.text().splitlines() if line]


def command_line(*arguments: object) -> None:
    """What the installed command does."""
    from phase2hpc.__main__ import main

    sys.argv = ["phase2hpc", *map(str, arguments)]
    main()


def _run(
    variables: Mapping[str, str], log: Path, function: Callable[..., Any], arguments: Any
) -> None:
    import torch

    for name in [*os.environ]:
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            del os.environ[name]
    os.environ.update(variables)
    torch.set_num_threads(1)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    code: Any = 1
    try:
        function(*arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # As an interpreter's end, without that of the server's modules.
    os._exit(code)
