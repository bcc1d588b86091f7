"""Seeds and states of the random number generators of Python, NumPy and torch."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed all generators whose state ``rng_state`` keeps; weights and dropout use torch's.

    ``rank`` only matters for dropout: the weights of rank 0 are broadcast.
    """
    key = seed if rank == 0 else int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.manual_seed(key)


def rng_state() -> dict[str, Any]:
    """States of Python's generator, NumPy's global one, torch's on the CPU and, where CUDA is in
    use, that of the current device, as plain values and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.tensor([int(key) for key in keys], dtype=torch.int64),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    # Of the current device only: a query of every device would open a context on each.
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what ``rng_state`` returned; CUDA's state only where CUDA is available."""
    python, legacy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    keys = legacy["keys"].numpy().astype(np.uint32)
    np.random.set_state(
        (legacy["name"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"])
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
