"""One process of a training run, started as a command or forked, observed and killed."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

import phase2hpc.cli.main  # noqa: F401 (imported once, for all that are forked)
from phase2hpc import __main__ as entry
from phase2hpc.checkpointing import manager
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.lease_record import read_lease
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training import loop, runner

PHASES = (
    "start-up (store, model, lease, resume)", "training steps",
    "a state being written (checkpoint.pt or best.pt)", "checkpoint.pt being put in place",
    "best.pt being put in place", "validation", "evaluation", "after the evaluation",
)  # fmt: skip
START, TRAINING, WRITE, CHECKPOINT, BEST, VALIDATION, EVALUATION, END = range(len(PHASES))
# What a state is written and put in place by, about a dozen calls each time.
CALLS = ("open", "write", "fsync", "pread", "link", "replace", "close", "unlink")
# Seconds; one that lives longer hangs.
LONGEST_LIFE = 300.0


class PhaseMark:
    """Phase of a forked process, in memory shared with its parent."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 2)

    def read(self) -> tuple[int, int]:
        """(phase, number of phases entered so far)."""
        return self._shared[0], self._shared[1]

    def _enter(self, phase: int) -> None:
        self._shared[0] = phase
        self._shared[1] = (self._shared[1] + 1) % 256

    def during(self, phase: int, owner: Any, name: str, after: int | None = None) -> None:
        """Mark calls of a function as ``phase``, followed by ``after`` or the previous phase."""
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            before = self._shared[0]
            self._enter(phase)
            result = function(*args, **kwargs)
            self._enter(before if after is None else after)
            return result

        setattr(owner, name, marked)


class Life:
    """One process of a run, in a process group of its own."""

    def __init__(
        self, words: list[str], log: Path, noise: int | None = None, last_call: int | None = None
    ) -> None:
        """The command, or a forked process whose random state is seeded by ``noise``.

        last_call: the forked one kills itself at this one, counted from 1, of the system calls by
        which it writes states: as the call is over, or a write half done.
        """
        self.began = time.monotonic()
        self.mark = None if noise is None else PhaseMark()
        self._code: int | None = None
        if noise is None:
            with log.open("ab") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "phase2hpc.__main__", *words],
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0,
                )  # fmt: skip
            self.pid = self._process.pid
            return
        self.pid = os.fork()
        if self.pid == 0:
            self._live(words, log, noise, last_call)
        # By both, as a shell does: neither knows which of them is first.
        os.setpgid(self.pid, self.pid)

    def _live(self, words: list[str], log: Path, noise: int, last_call: int | None) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), stream)
            assert self.mark is not None
            self.mark.during(TRAINING, loop.TrainingLoop, "fit")
            self.mark.during(WRITE, manager, "prepare_state")
            self.mark.during(CHECKPOINT, loop, "save_checkpoint")
            self.mark.during(BEST, TrainedModel, "save")
            self.mark.during(VALIDATION, loop.TrainingLoop, "_end_epoch")
            self.mark.during(EVALUATION, runner, "evaluate", after=END)
            if last_call is not None:
                self._die_at(last_call)
            torch.manual_seed(noise)
            random.seed(noise)
            sys.argv = ["phase2hpc", *words]
            entry.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _die_at(self, last_call: int) -> None:
        mark, calls = self.mark, itertools.count(1)
        assert mark is not None

        def fatal(name: str) -> Callable[..., Any]:
            function: Callable[..., Any] = getattr(os, name)

            @wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                last = mark.read()[0] in (WRITE, CHECKPOINT, BEST) and next(calls) == last_call
                if last and name == "write":
                    function(args[0], args[1][: len(args[1]) // 2])
                else:
                    result = function(*args, **kwargs)
                if last:
                    os.killpg(0, signal.SIGKILL)
                return result

            return call

        for name in CALLS:
            setattr(os, name, fatal(name))

    def code(self) -> int | None:
        """Exit code, or minus the number of the signal that ended it; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = LONGEST_LIFE) -> None:
        """Wait until it ends, or has run this long."""
        while self.code() is None and time.monotonic() < self.began + seconds:
            time.sleep(0.001)

    def wait_for(self, phase: int, times: int) -> None:
        """Wait until it ends, or has entered the phase this many times."""
        assert self.mark is not None
        last = self.mark.read()
        while self.code() is None and time.monotonic() < self.began + LONGEST_LIFE:
            now = self.mark.read()
            times -= now != last and now[0] == phase
            if times == 0:
                return
            last = now
            time.sleep(0.0002)

    def kill(self, frozen: float = 0.0) -> None:
        """Send SIGKILL to the group, after this many seconds of SIGSTOP, unless it has ended."""
        if self.code() is not None:
            return
        if frozen:
            os.killpg(self.pid, signal.SIGSTOP)
            time.sleep(frozen)
        os.killpg(self.pid, signal.SIGKILL)
        while self.code() is None:
            time.sleep(0.001)

    def phase(self, run: RunDirectory) -> str:
        """Phase in which it was killed."""
        if self.mark is not None:
            return PHASES[self.mark.read()[0]]
        holder = read_lease(run)
        begun = holder is not None and holder.pid == self.pid
        return "the command, once it had the run" if begun else "start-up of the command"
