"""Deterministic algorithms of torch, with which a GPU gives the same bits again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_deterministic_algorithms() -> None:
    """Switch them on for this process, before its first work on a GPU."""
    # cuBLAS asks for it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is filled first, which doubles the kernels of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def algorithms_put_back() -> Iterator[None]:
    """Context after which torch's algorithms are those of before."""
    module = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = module.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        module.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
