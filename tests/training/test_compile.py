"""With torch.compile too a resumed run ends the same, whatever batch is compiled first; and a
machine that cannot compile is told so in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from same_run import assert_same_run, disturb

from phase2hpc.runs.run_directory import RunDirectory

PHASE2HPC = Path(sys.executable).with_name("phase2hpc")
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


# A compiler that is one by its name and version alone.
FAILING = """#!/bin/sh
for word in "$@"; do
  if [ "$word" = --version ]; then echo "g++ (test) 12.2.0"; exit; fi
done
echo "model.cpp:1:10: fatal error: omp.h: no such file" >&2
exit 1
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "compile=true needs a C++ compiler, and none works here (torch looks for"),
        (FAILING, "compile=true: torch cannot compile the model on this machine (CppCompileError"),
    ],
)
def test_a_machine_that_cannot_compile(text, said, tiny, tmp_path) -> None:
    compiler = tmp_path / "c++"
    if text is not None:
        compiler.write_text(text)
        compiler.chmod(0o755)
    environment = {"CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = subprocess.run(
        [PHASE2HPC, "train", "--algorithm", "cgcnn", "--level", "lite", "--store", tiny.store,
         "--max-samples", "16", "--epochs", "1", "--set", "hidden=8", "--set", "compile=true",
         "--threads", "1", "--models-dir", tmp_path / "models"],
        env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"phase2hpc: {said}")
    assert ("omp.h: no such file" if text else str(compiler)) in line
