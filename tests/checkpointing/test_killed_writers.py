"""Checkpoints whose writer is killed at any moment."""

import os
import subprocess
import sys
from pathlib import Path

from paths import HELPERS

KILLED_AT_EVERY_CALL = """
import os, signal, sys
from pathlib import Path
import torch
from phase2hpc.utils.atomic_io import clear_partials
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.checkpointing.manager import load_best, load_newest, save_best, save_checkpoint
from checkpoints import STEPS, best_of, clear, state_of

torch.set_num_threads(1)
run = RunDirectory(Path(sys.argv[1]))
kills, newest = 0, {2: 0, 3: 0}

def dying(name, real, target, when):
    def call(*given, **named):
        global calls
        calls += when != "half" or name == "write"
        if calls == target:
            if when == "half":
                real(given[0], given[1][: len(given[1]) // 2])
            if when == "after":
                real(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    return call

for when, keep in (("before", 1), ("half", 2), ("after", 2)):
    clear(run)
    for number in (1, 2):
        save_checkpoint(run, state_of(number), number, keep=keep)
        save_best(run, best_of(number), keep=keep)
    files = {path: path.read_bytes() for path in run.path.iterdir()}
    for target in range(1, 200):
        clear(run)
        for path, content in files.items():
            path.write_bytes(content)
        child = os.fork()
        if child == 0:
            calls = 0
            for name in STEPS:
                setattr(os, name, dying(name, getattr(os, name), target, when))
            save_best(run, best_of(3), keep=keep)
            save_checkpoint(run, state_of(3), 3, keep=keep)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        state, step, _ = load_newest(run)
        assert state["step"] == step and (state["model"]["weights"] == step).all()
        newest[step] += 1
        if run.best.exists():
            assert load_best(run.best)["epoch"] in (2, 3)
        else:
            assert load_best(run.best_of(2))["epoch"] == 2
        clear_partials(run.path)
        left = [p.name for p in run.path.iterdir() if "partial" in p.name or "damaged" in p.name]
        assert not left, left
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
print(kills, newest[2], newest[3])
"""


def counted(program: str, folder: Path) -> list[int]:
    """The numbers that a program prints at its end, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, folder], env=os.environ | {"PYTHONPATH": str(HELPERS)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_killed_at_every_call_a_state_is_found(tmp_path: Path) -> None:
    kills, before, after = counted(KILLED_AT_EVERY_CALL, tmp_path)
    assert kills > 60 and before > 40 and after > 5


KILLED_WRITERS = """
import itertools, os, random, signal, statistics, sys, time
import torch
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.checkpointing.manager import load_newest, save_checkpoint
from pathlib import Path
from checkpoints import state_of

torch.set_num_threads(1)
run = RunDirectory(Path(sys.argv[1]))
rng = random.Random(0)

def save(step):
    weights = torch.full((200_000,), float(step))
    save_checkpoint(run, state_of(step, model={"weights": weights}), step, keep=2)

times = []
for step in range(1, 6):
    began = time.monotonic()
    save(step)
    times.append(time.monotonic() - began)
last, mid_write = 5, 0
for _ in range(40):
    child = os.fork()
    if child == 0:
        for step in itertools.count(last + 1):
            save(step)
    # As long as a save or four take on this machine, so that kills fall on every part of one.
    time.sleep(rng.uniform(0, 4 * statistics.median(times)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    mid_write += any(run.path.glob(".*.partial"))
    found = load_newest(run)
    state, step, path = found
    assert step >= last and state["step"] == step
    assert path == run.checkpoint
    assert (state["model"]["weights"] == step).all()
    last = step
assert not list(run.path.glob("*.damaged"))
print(last, mid_write)
"""


def test_killed_writers_never_cost_a_state(tmp_path: Path) -> None:
    steps, mid_write = counted(KILLED_WRITERS, tmp_path)
    assert steps > 10 and mid_write > 5  # the kills did hit writers at work
