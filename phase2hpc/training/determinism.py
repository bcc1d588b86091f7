"""Deterministic algorithms of torch, with which a GPU gives the same bits again."""

from __future__ import annotations

import os

import torch


def use_deterministic_algorithms() -> None:
    """Switch them on for this process, before its first work on a GPU."""
    # cuBLAS asks for it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is filled first, which doubles the kernels of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
