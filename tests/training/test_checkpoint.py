"""Checkpoints: whatever happens to the writer or to its files, the newest valid state is found."""

import errno
import logging
import os
import random
import resource
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs import RunDirectory
from phase2hpc.training.checkpoint import (
    load_best,
    load_newest,
    rng_state,
    save_best,
    save_checkpoint,
    set_rng_state,
)
from phase2hpc.training.statefile import to_plain

HEADER = 68


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def state_of(step: int) -> dict[str, Any]:
    return {"weights": torch.full((20,), float(step)), "step": step}


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


def found_step(run: RunDirectory) -> int:
    found = load_newest(run)
    assert found is not None
    state, step, _ = found
    assert state["step"] == step
    assert torch.equal(state["weights"], torch.full_like(state["weights"], float(step)))
    return step


def test_none_where_there_never_was_one(run: RunDirectory) -> None:
    assert load_newest(run) is None
    assert load_newest(RunDirectory(run.path / "absent")) is None


def test_newest_beside_older_ones(run: RunDirectory) -> None:
    for step in (9, 10, 100, 101):
        save_checkpoint(run, state_of(step), step, keep=3)
    assert names(run) == ["checkpoint.pt", "checkpoint_10.pt", "checkpoint_100.pt"]
    assert found_step(run) == 101
    save_checkpoint(run, state_of(101), 101, keep=3)  # the same step again replaces itself
    assert names(run) == ["checkpoint.pt", "checkpoint_10.pt", "checkpoint_100.pt"]
    save_checkpoint(run, state_of(102), 102, keep=1)
    assert names(run) == ["checkpoint.pt"]


def test_order_is_by_step_not_by_time_or_name(run: RunDirectory) -> None:
    for step in (5, 20, 100):
        save_checkpoint(run, state_of(step), step, keep=3)
    for age, name in enumerate(("checkpoint.pt", "checkpoint_20.pt", "checkpoint_5.pt")):
        os.utime(run.path / name, (1e9 + age, 1e9 + age))
    assert found_step(run) == 100
    run.checkpoint.unlink()
    assert found_step(run) == 20
    run.checkpoint_of(5).rename(run.checkpoint)  # an old one copied back by hand
    assert found_step(run) == 20


def test_works_without_hard_links(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2, 3):
        save_checkpoint(run, state_of(step), step, keep=2)
    assert names(run) == ["checkpoint.pt", "checkpoint_2.pt"]
    assert found_step(run) == 3


def test_a_writer_behind_the_file_is_refused(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(10), 10, keep=2)
    with pytest.raises(Phase2Error, match="another process"):
        save_checkpoint(run, state_of(7), 7, keep=2)
    assert found_step(run) == 10


def damage_and_find(run: RunDirectory, content: bytes) -> None:
    """checkpoint.pt with this content falls back to step 1; then everything is put back."""
    run.checkpoint.unlink(missing_ok=True)
    run.checkpoint.write_bytes(content)
    assert found_step(run) == 1
    aside = run.path / "checkpoint.pt.damaged"
    assert names(run) == ["checkpoint.pt.damaged", "checkpoint_1.pt"]
    assert aside.read_bytes() == content
    aside.unlink()


def test_any_flipped_bit_falls_back(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    whole = run.checkpoint.read_bytes()
    rng = random.Random(0)
    places = [*range(HEADER), *(rng.randrange(HEADER, len(whole)) for _ in range(60))]
    for place in [*places, len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        damage_and_find(run, bytes(flipped))
    run.checkpoint.write_bytes(whole)
    assert found_step(run) == 2


def test_truncated_extended_or_foreign_falls_back(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    whole = run.checkpoint.read_bytes()
    for length in (0, 1, HEADER - 1, HEADER, HEADER + 1, len(whole) // 2, len(whole) - 1):
        damage_and_find(run, whole[:length])
    damage_and_find(run, whole + b"\0")
    damage_and_find(run, bytes(len(whole)))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        damage_and_find(run, whole[HEADER:])
    assert str(run.checkpoint) in caplog.text and "set aside" in caplog.text


def test_only_damaged_ones_is_an_error_now_and_later(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-1])
    for _ in range(2):  # the second time there is only the file set aside: no silent restart
        with pytest.raises(Phase2Error, match=r"checkpoint\.pt\.damaged"):
            load_newest(run)


def test_a_damaged_newest_does_not_stop_the_next_save(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=3)
    save_checkpoint(run, state_of(2), 2, keep=3)
    run.checkpoint.write_bytes(b"rubbish")
    save_checkpoint(run, state_of(3), 3, keep=3)
    assert found_step(run) == 3
    assert "checkpoint_1.pt" in names(run)


def sealed(payload: bytes, version: int = 1) -> bytes:
    fields = struct.pack(
        "<8sIQQ32s", b"PHASE2ST", version, 5, len(payload), sha256(payload).digest()
    )
    return fields + sha256(fields).digest()[:8] + payload


def test_newer_version_is_named_and_left_alone(run: RunDirectory) -> None:
    run.checkpoint.write_bytes(sealed(b"?", version=2))
    run.best.write_bytes(sealed(b"?", version=2))
    for read in (lambda: load_newest(run), lambda: load_best(run.best)):
        with pytest.raises(InputError, match="version 2"):
            read()
    assert names(run) == ["best.pt", "checkpoint.pt"]


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_code_in_a_pickle_is_never_run(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    plain = run.path / "evil.pt"
    torch.save({"a": Code()}, plain)
    run.best.write_bytes(sealed(plain.read_bytes()))
    with pytest.raises(InputError, match="other things than tensors"):
        load_best(run.best)
    assert not Path("executed").exists()


def test_what_could_not_be_read_back_is_not_saved(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=1)
    for bad in (Path("x"), {1, 2}, Code(), torch.float32):
        with pytest.raises(TypeError, match=r"state\['deep'\]\[1\]"):
            save_checkpoint(run, {"deep": [0, bad]}, 2, keep=1)
    with pytest.raises(TypeError, match="key"):
        save_checkpoint(run, {"deep": {(1, 2): 3}}, 2, keep=1)
    assert names(run) == ["checkpoint.pt"]
    assert found_step(run) == 1


def test_full_disk_keeps_the_old_state(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=1)
    save_best(run, {"epoch": 1})
    big = {"weights": torch.zeros(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Phase2Error, match=r"checkpoint\.pt: cannot be saved .*--resume"):
            save_checkpoint(run, big, 2, keep=1)
        with pytest.raises(Phase2Error, match=r"best\.pt: cannot be saved"):
            save_best(run, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(run) == ["best.pt", "checkpoint.pt"]
    assert found_step(run) == 1
    assert load_best(run.best) == {"epoch": 1}
    save_checkpoint(run, state_of(2), 2, keep=1)
    assert found_step(run) == 2


def test_states_come_back_as_they_were(run: RunDirectory) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [{"loss": np.float64(0.1), "n": np.int64(3), "mae": None}],
        "betas": (0.9, 0.999),
        "flags": [True, "text", b"bytes", float("inf")],
        "array": np.arange(5),
        "view": torch.arange(1_000_000)[::250_000],
    }
    save_checkpoint(run, state, 1, keep=1)
    found = load_newest(run)
    assert found is not None
    read = found[0]
    torch.testing.assert_close(read["model"], dict(state["model"]), rtol=0, atol=0)
    fresh = torch.optim.AdamW(model.parameters())
    fresh.load_state_dict(read["optimizer"])
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert read["history"] == [{"loss": 0.1, "n": 3, "mae": None}]
    assert type(read["history"][0]["loss"]) is float
    assert read["betas"] == (0.9, 0.999)
    assert read["flags"] == state["flags"]
    assert torch.equal(read["array"], torch.arange(5))
    assert torch.equal(read["view"], state["view"])
    assert run.checkpoint.stat().st_size < 100_000  # a view is saved without what lies behind it


def test_the_copy_is_independent() -> None:
    weights = torch.nn.Parameter(torch.ones(3))
    copy = to_plain({"w": weights})["w"]
    with torch.no_grad():
        weights.zero_()
    assert torch.equal(copy, torch.ones(3)) and not copy.requires_grad


def draw() -> tuple[Any, ...]:
    return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(3).tolist()


def test_rng_states_survive_a_file(run: RunDirectory) -> None:
    draw()  # leaves the second number of a Gaussian pair in numpy's and Python's states
    save_checkpoint(run, {"rng": rng_state()}, 1, keep=1)
    expected = draw()
    found = load_newest(run)
    assert found is not None
    set_rng_state(found[0]["rng"])
    assert draw() == expected


def test_best(run: RunDirectory) -> None:
    with pytest.raises(InputError, match="no trained weights yet"):
        load_best(run.best)
    save_best(run, {"weights": torch.ones(2), "epoch": 3})
    assert load_best(run.best)["epoch"] == 3
    run.best.write_bytes(run.best.read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged"):
        load_best(run.best)


KILLED_WRITERS = """
import itertools, os, random, signal, sys, time
import torch
from phase2hpc.runs import RunDirectory
from phase2hpc.training.checkpoint import load_newest, save_checkpoint
from pathlib import Path

torch.set_num_threads(1)
run = RunDirectory(Path(sys.argv[1]))
rng = random.Random(0)

def save(step):
    weights = torch.full((200_000,), float(step))
    save_checkpoint(run, {"weights": weights, "step": step}, step, keep=2)

times = []
for step in (1, 2, 3):
    began = time.monotonic()
    save(step)
    times.append(time.monotonic() - began)
last, mid_write = 3, 0
for _ in range(40):
    child = os.fork()
    if child == 0:
        for step in itertools.count(last + 1):
            save(step)
    # As long as a save or three take on this machine, so that kills fall on every part of one.
    time.sleep(rng.uniform(0, 3 * min(times)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    mid_write += any(run.path.glob(".*.partial"))
    found = load_newest(run)
    state, step, path = found
    assert step >= last and state["step"] == step
    assert path == run.checkpoint
    assert (state["weights"] == step).all()
    last = step
assert not list(run.path.glob("*.damaged"))
print(last, mid_write)
"""


def test_killed_writers_never_cost_a_state(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITERS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps, mid_write = map(int, done.stdout.split())
    assert steps > 10 and mid_write > 5  # the kills did hit writers at work
