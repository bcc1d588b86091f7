"""Checkpoints saved, replaced, kept and read back as they were."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import best_of, found_step, names, state_of

from phase2hpc.checkpointing.manager import (
    best_epoch,
    load_best,
    load_newest,
    save_best,
    save_checkpoint,
)
from phase2hpc.checkpointing.plain_values import DTYPES
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.run_directory import RunDirectory


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


def test_what_could_not_be_read_back_is_not_saved(run: RunDirectory) -> None:
    save_checkpoint(run, state_of(1), 1, keep=1)
    sparse, complex_ = torch.eye(2).to_sparse(), torch.zeros(2, dtype=torch.complex64)
    for bad in (Path("x"), {1, 2}, object(), torch.float32, b"bytes", sparse, complex_):
        with pytest.raises(TypeError, match=r"state\['deep'\]\[1\]"):
            save_checkpoint(run, {"deep": [0, bad]}, 2, keep=1)
    with pytest.raises(TypeError, match="key"):
        save_checkpoint(run, {"deep": {(1, 2): 3}}, 2, keep=1)
    assert names(run) == ["checkpoint.pt"]
    assert found_step(run) == 1


def test_states_come_back_as_they_were(run: RunDirectory) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = state_of(
        1,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        history=[{"loss": np.float64(0.1), "n": np.int64(3), "mae": None}],
        betas=(0.9, 0.999),
        flags=[True, "text", float("inf"), -(2**70)],
        array=np.arange(5),
        view=torch.arange(1_000_000)[::250_000],
        dtypes=[torch.ones(3).to(dtype) for dtype in sorted(DTYPES, key=str)],
    )
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
    for tensor, dtype in zip(read["dtypes"], sorted(DTYPES, key=str), strict=True):
        assert tensor.dtype is dtype and tensor.tolist() == [1, 1, 1]
    assert run.checkpoint.stat().st_size < 100_000  # a view is saved without what lies behind it


def test_best(run: RunDirectory) -> None:
    with pytest.raises(InputError, match="no trained weights yet"):
        load_best(run.best)
    save_best(run, best_of(3, weights={"w": torch.ones(2)}))
    assert load_best(run.best)["epoch"] == 3
    whole = run.best.read_bytes()
    run.best.write_bytes(whole[:-3])
    with pytest.raises(InputError, match="damaged"):
        load_best(run.best)
    save_checkpoint(run, state_of(1), 1, keep=1)
    with pytest.raises(InputError, match="not a valid best state: key 'kind'"):
        load_best(run.checkpoint)
    for key in best_of(1).keys() - {"epoch"}:
        save_best(run, best_of(1, **{key: ["x"]}))
        with pytest.raises(InputError, match=f"'{key}"):
            load_best(run.best)


def test_bests_by_number(run: RunDirectory) -> None:
    for epoch in (1, 2, 9, 10, 11):
        save_best(run, best_of(epoch), keep=3)
    assert names(run) == ["best.pt", "best_10.pt", "best_9.pt"]
    assert load_best(run.best)["epoch"] == 11
    assert load_best(run.best_of(10))["epoch"] == 10
    save_best(run, best_of(11), keep=3)  # the same again replaces itself
    assert names(run) == ["best.pt", "best_10.pt", "best_9.pt"]
    save_best(run, best_of(10), keep=3)  # the run went back
    assert names(run) == ["best.pt", "best_9.pt"]
    run.best.write_bytes(b"rubbish")
    save_best(run, best_of(12), keep=3)
    assert names(run) == ["best.pt", "best.pt.damaged", "best_9.pt"]
    assert best_epoch(run) == 12
    save_best(run, best_of(13), keep=1)
    assert names(run) == ["best.pt", "best.pt.damaged"]
    run.best.write_bytes(b"")
    assert best_epoch(run) is None and best_epoch(run) is None
    assert names(run) == ["best.pt.damaged", "best.pt.damaged-2"]
