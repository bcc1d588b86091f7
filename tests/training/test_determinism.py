"""--set deterministic=true; that a GPU then gives the same bits again, benchmarks/gpu.py checks."""

from __future__ import annotations

import os

import pytest
import torch
from same_run import assert_same_run

from phase2hpc.training.trainer import Trainer


@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_every_operation_has_a_deterministic_form(
    algorithm, train_tiny, tmp_path, monkeypatch
) -> None:
    # Set first, so that it is put back after the test.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    optimise, seen = Trainer.optimise, set()

    def watched(self, *arguments):
        seen.add(torch.are_deterministic_algorithms_enabled())
        return optimise(self, *arguments)

    monkeypatch.setattr(Trainer, "optimise", watched)
    reference = train_tiny(tmp_path / "as it is", algorithm)
    assert seen == {False}
    seen.clear()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    run = train_tiny(tmp_path / "deterministic", algorithm, deterministic=True)
    assert seen == {True} and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert_same_run(run, reference)
    # The process is as it was.
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == fills
