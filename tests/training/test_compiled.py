"""With torch.compile too a resumed run ends the same, whatever batch is compiled first."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from same_run import assert_same_run, disturb

from phase2hpc.runs import RunDirectory

STEPS_AN_EPOCH = 6


@pytest.mark.skipif(
    not os.environ.get("PHASE2HPC_SLOW_TESTS"),
    reason="compiles for minutes: PHASE2HPC_SLOW_TESTS=1",
)
@pytest.mark.parametrize("algorithm", ["e3nn", "cgcnn"])
def test_compiled_and_resumed(algorithm, train_tiny, tmp_path, monkeypatch) -> None:
    """Before the last batch of an epoch, which holds a single crystal."""
    # What another process would have to compile again.
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    reference = train_tiny(
        tmp_path / "a", algorithm, properties="all9", compile=True, layers=1, epochs=2,
        max_samples=8 * (STEPS_AN_EPOCH - 1) + 1, checkpoint_steps=1, keep_checkpoints=99,
    )  # fmt: skip
    assert reference.read_manifest().step == 2 * STEPS_AN_EPOCH
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    run = RunDirectory(tmp_path / "b" / reference.family / reference.path.name)
    stopped_at = STEPS_AN_EPOCH - 1
    shutil.copy(run.checkpoint_of(stopped_at), run.checkpoint)
    for step, path in run.older_checkpoints():
        if step >= stopped_at:
            path.unlink()
    run.update_manifest(state="stopped", step=stopped_at, epoch=0)
    torch._dynamo.reset()
    disturb()
    train_tiny(tmp_path / "b", algorithm, properties=None, resume=True)
    assert_same_run(run, reference)
