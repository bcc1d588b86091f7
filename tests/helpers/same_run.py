"""Whether two runs ended the same, bit by bit."""

from __future__ import annotations

import json
from typing import Any

import torch

from phase2hpc.checkpointing.manager import load_best, load_newest
from phase2hpc.runs.run_directory import RunDirectory


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Bitwise equal, but for wall-clock fields."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds", "crystals_per_second"}:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(run: RunDirectory, reference: RunDirectory) -> None:
    mine, theirs = load_newest(run), load_newest(reference)
    assert mine is not None and theirs is not None
    assert mine[1] == theirs[1]
    assert_same(mine[0], theirs[0])
    best, other = load_best(run.best), load_best(reference.best)
    for key in ("weights", "scaler", "elements", "epoch", "score", "graph_settings"):
        assert_same(best[key], other[key], f"best[{key!r}]")
    for name in (
        "metrics.json",
        "metrics.csv",
        "predictions_val.csv",
        "predictions_test.csv",
        "calibration.safetensors",
    ):
        assert (run.path / name).read_bytes() == (reference.path / name).read_bytes(), name
    histories = [json.loads(r.history.read_text()) for r in (run, reference)]
    assert_same(*histories, "history")
    manifests = [r.read_manifest() for r in (run, reference)]
    for key in ("state", "step", "epoch", "epochs", "best_score", "best_epoch", "store_hash"):
        assert_same(*(getattr(m, key) for m in manifests), key)


def disturb() -> None:
    """Another process would have other random numbers and another history."""
    torch.manual_seed(987654321)
    torch.rand(100)
