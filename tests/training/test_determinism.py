"""--set deterministic=true; that a GPU then gives the same bits again, benchmarks/gpu.py checks."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from same_run import assert_same_run


@pytest.fixture
def settings_of_torch(monkeypatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills


@pytest.mark.usefixtures("settings_of_torch")
@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_every_operation_has_a_deterministic_form(algorithm, train_tiny, tmp_path) -> None:
    reference = train_tiny(tmp_path / "as it is", algorithm)
    assert not torch.are_deterministic_algorithms_enabled()
    run = train_tiny(tmp_path / "deterministic", algorithm, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert_same_run(run, reference)
