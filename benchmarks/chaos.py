"""Chaos test: kill training runs at random and compare their results (``make chaos``).

PYTHONPATH=tests/helpers python benchmarks/chaos.py --kills 320

The process group of a short run is killed by SIGKILL, at random times and in chosen phases, above
all checkpoint writes, and the run is resumed until it ends. Files are checked after each kill;
at the end weights, averages, optimiser, history, metrics and predictions are compared bit by bit
with those of an undisturbed run. Most processes are forked from this one, which has imported
torch, and call the entry point of the command; one in ten is the command itself, so that its start
is killed too.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lives import CHECKPOINT, END, EVALUATION, VALIDATION, WRITE, Life
from same_run import assert_same_run
from tiny import LITTLE, prepare_tiny

from phase2hpc.checkpointing.manager import load_best, load_newest
from phase2hpc.runs.run_directory import RunDirectory, family_folder
from phase2hpc.utils.package_files import CACHE_VARIABLE

LEVEL = "lite"
# Beside what LITTLE has on already: dropout, averages, learned task weights.
CASES: dict[str, dict[str, Any]] = {
    "every step saved, one kept": {"checkpoint_steps": 1, "keep_checkpoints": 1, "epochs": 5},
    "every step saved, bf16": {"checkpoint_steps": 1, "precision": "bf16", "epochs": 4},
    "patience, batches in parts": {
        "checkpoint_steps": 2, "epochs": 8, "patience": 2, "max_edges": 400, "lr": 0.05,
    },
    "epochs saved, two bests kept": {"epochs": 4, "keep_best": 2},
}  # fmt: skip
# What a kill is aimed at, as often as it stands here (None: at any time), how many times it may
# come before it is met, and the seconds within it at most.
AIMS: list[tuple[int | None, int, float]] = [
    *[(None, 1, 0.0)] * 6,
    (WRITE, 6, 0.01),
    (CHECKPOINT, 6, 0.02),
    *[(VALIDATION, 2, 0.05)] * 2,
    (EVALUATION, 1, 0.05),
    (END, 1, 0.01),
]
# Others end at one of so many of their first system calls that write states.
MOST_CALLS = 100
AT_A_CALL, AS_COMMAND, AGAIN_AT_ONCE, FROZEN_FIRST = 0.4, 0.1, 0.1, 0.15  # shares
MOST_KILLS_A_RUN = 16


class Violation(AssertionError):
    """A result was lost or differs."""


@dataclass(frozen=True)
class Case:
    """Settings of a run to be killed: the common ones, updated by ``settings``."""

    algorithm: str
    name: str
    store: Path

    def words(self, models: Path, resume: bool) -> list[str]:
        """The command line after ``phase2hpc``."""
        which = ["train", "--algorithm", self.algorithm, "--level", LEVEL]
        which += ["--models-dir", str(models), "--run-id", "one"]
        if resume:
            return [*which, "--resume"]
        which += ["--all-properties", "--store", str(self.store)]
        for key, value in (LITTLE[self.algorithm] | CASES[self.name]).items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            which += ["--set", f"{key}={text}"]
        return which

    def run(self, models: Path) -> RunDirectory:
        return RunDirectory(models / family_folder(self.algorithm, LEVEL) / "run_one")


# ---- one run ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The undisturbed result of a case, and the duration of the command and of a forked process."""

    case: Case
    run: RunDirectory
    command: float
    forked: float


def undisturbed(case: Case, folder: Path) -> Reference:
    """Run a case as a command and as a forked process; the results must be equal."""
    folder.mkdir()
    seconds = []
    for name, noise in (("command", None), ("forked", 1)):
        life = Life(case.words(folder / name, resume=False), folder / f"{name}.log", noise)
        life.wait()
        seconds.append(time.monotonic() - life.began)
        life.kill()
        if life.code() != 0:
            raise Violation(f"exit code {life.code()}: {folder / name}.log")
    runs = [case.run(folder / name) for name in ("command", "forked")]
    assert_same_run(*runs)
    return Reference(case, runs[0], *seconds)


@dataclass
class Outcome:
    """Kills of a run by phase and kind, and what went wrong."""

    where: Counter[str] = field(default_factory=Counter)
    how: Counter[str] = field(default_factory=Counter)
    violation: str | None = None


def disturbed(reference: Reference, folder: Path, seed: str) -> Outcome:
    """Kill a run several times, let it finish and compare it with the reference."""
    folder.mkdir()
    outcome, draw = Outcome(), random.Random(seed)
    try:
        _kill_until_the_end(reference, folder, draw, outcome)
        run = reference.case.run(folder)
        assert_same_run(run, reference.run)
        left = [path for path in run.path.iterdir() if path.name.startswith((".", "lease"))]
        if left:
            raise Violation(f"left behind: {left}")
    except Exception as error:
        outcome.violation = f"{type(error).__name__}: {error} ({folder}, seed {seed})"
    return outcome


def _kill_until_the_end(
    reference: Reference, folder: Path, draw: random.Random, outcome: Outcome
) -> None:
    case, run = reference.case, reference.case.run(folder)
    most, step, again = draw.randint(4, MOST_KILLS_A_RUN), -1, False
    while True:
        as_command = draw.random() < AS_COMMAND
        spared = outcome.where.total() >= most
        at_a_call = not (spared or as_command or again) and draw.random() < AT_A_CALL
        life = Life(
            case.words(folder, resume=run.manifest.exists()),
            folder / "log",
            None if as_command else draw.getrandbits(32),
            draw.randint(1, MOST_CALLS) if at_a_call else None,
        )
        aim, times, within = draw.choice(AIMS)
        if spared or at_a_call:
            life.wait()
        elif again:
            life.wait(draw.uniform(0, 0.1))
        elif as_command or aim is None:
            life.wait(draw.uniform(0, reference.command if as_command else reference.forked))
        else:
            life.wait_for(aim, draw.randint(1, times))
            time.sleep(draw.uniform(0, within))
        frozen = not at_a_call and draw.random() < FROZEN_FIRST
        life.kill(draw.uniform(0.01, 0.1) if frozen else 0.0)
        if life.code() == 0:
            return
        if life.code() != -signal.SIGKILL:
            raise Violation(f"exit code {life.code()}")
        if spared:
            raise Violation("it hangs")
        outcome.where[life.phase(run)] += 1
        outcome.how["at a system call that writes a state"] += at_a_call
        outcome.how["frozen by SIGSTOP first"] += frozen
        outcome.how["at once after another"] += again
        step, partial = _check_survivors(run, step)
        outcome.how[f"with a temporary {partial} left"] += partial is not None
        again = not again and draw.random() < AGAIN_AT_ONCE


def _check_survivors(run: RunDirectory, step: int) -> tuple[int, str | None]:
    """(step of the newest checkpoint, target of a temporary file).

    Raises where a state is gone, damaged or older than ``step``, or anything cannot be read.
    """
    if not run.path.exists():
        if step >= 0:
            raise Violation("the run is gone")
        return step, None
    partials = [path.name for path in run.path.glob(".*.partial")]
    if len(partials) > 1:
        raise Violation(f"temporary files of more than one process: {partials}")
    if step >= 0 or run.manifest.exists():
        run.read_manifest()
        run.read_config()
    found = load_newest(run)
    now = -1 if found is None else found[1]
    if now < step or run.damaged_checkpoints():
        raise Violation(f"step {step} was there, {now} is; aside: {run.damaged_checkpoints()}")
    if found is not None and found[0]["best_epoch"] > 0:
        load_best(run.best)
    target = partials[0].split(".")[1] if partials else None
    return now, target


# ---- all of them -----------------------------------------------------------------------------


def runs_of(references: list[Reference], folder: Path, seed: int) -> Iterator[tuple[Any, ...]]:
    """Endless arguments of ``disturbed``, cycling over the cases."""
    number = 0
    while True:
        for reference in references:
            number += 1
            yield reference, folder / f"run{number}", f"{seed}-{number}"


def chaos(
    folder: Path,
    chosen: list[tuple[str, str]],
    kills: int,
    seconds: float,
    seed: int,
    jobs: int,
) -> list[Outcome]:
    """Kill at least this many times, or for this many seconds, and report each run."""
    store = prepare_tiny(folder).store
    cases = [Case(algorithm, name, store) for algorithm, name in chosen]
    outcomes: list[Outcome] = []
    # Forked, so that torch is not imported again. Nothing has been computed here, and no thread of
    # torch's is lost by it.
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        folders = [folder / f"undisturbed{number}" for number in range(len(cases))]
        references = list(pool.map(undisturbed, cases, folders))
        print(f"{len(references)} undisturbed runs, commands and forked: the same", flush=True)
        until = time.monotonic() + seconds
        runs = runs_of(references, folder, seed)
        working: dict[Future[Outcome], Reference] = {}
        while True:
            enough = sum(o.where.total() for o in outcomes) >= kills or time.monotonic() > until
            while not enough and len(working) < jobs:
                arguments = next(runs)
                working[pool.submit(disturbed, *arguments)] = arguments[0]
            if not working:
                return outcomes
            for done in wait(working, return_when=FIRST_COMPLETED).done:
                case, outcome = working.pop(done).case, done.result()
                outcomes.append(outcome)
                print(
                    f"run {len(outcomes)}: {case.algorithm}, {case.name}: "
                    f"{outcome.where.total()} kills, {outcome.violation or 'the same'}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument("--algorithm", choices=["both", *LITTLE], default="both")
    parser.add_argument("--cases", type=int, help="only so many of the settings, the first ones")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    algorithms = list(LITTLE) if given.algorithm == "both" else [given.algorithm]
    cases = [(algorithm, name) for name in CASES for algorithm in algorithms][: given.cases]
    print(f"seed {given.seed}", flush=True)
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1"}
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    os.environ[CACHE_VARIABLE] = str(folder)
    begin = time.monotonic()
    outcomes = chaos(folder, cases, given.kills, given.seconds, given.seed, given.jobs)
    where = sum((o.where for o in outcomes), Counter[str]())
    how = sum((o.how for o in outcomes), Counter[str]())
    wrong = [o.violation for o in outcomes if o.violation]
    print(f"\n{where.total()} kills in {len(outcomes)} runs, {time.monotonic() - begin:.0f} s")
    for name, count in [*where.most_common(), *how.most_common()]:
        print(f"{count:6}  {name}")
    print(f"lost or different: {len(wrong)}")
    if wrong:
        sys.exit("\n".join(wrong))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
