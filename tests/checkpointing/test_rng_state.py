"""States of random number generators survive a checkpoint."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import state_of

from phase2hpc.checkpointing.manager import load_newest, save_checkpoint
from phase2hpc.checkpointing.rng_state import rng_state, set_rng_state
from phase2hpc.runs.run_directory import RunDirectory


def draw() -> tuple[Any, ...]:
    return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(3).tolist()


def test_rng_states_survive_a_file(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    draw()  # leaves the second number of a Gaussian pair in numpy's and Python's states
    save_checkpoint(run, state_of(1, rng=[rng_state()]), 1, keep=1)
    expected = draw()
    found = load_newest(run)
    assert found is not None
    set_rng_state(found[0]["rng"][0])
    assert draw() == expected
