"""The command that goes on with a run, for the user to paste."""

from __future__ import annotations

import shlex
from pathlib import Path

from phase2hpc.runs.run_directory import Manifest, RunDirectory


def resume_command(run: RunDirectory, manifest: Manifest) -> str:
    """By a job as its newest one where it had any, else by ``train``."""
    submitted = bool(manifest.job_ids)
    words = ["phase2hpc", "submit" if submitted else "train", "--resume", "--run-id", run.id]
    words += ["--algorithm", manifest.algorithm, "--level", manifest.level]
    models = run.path.parent.parent
    if models != Path("models"):
        words += ["--models-dir", str(models)]
    asked = manifest.submission
    if asked is not None:
        is_missing = manifest.store is not None and not Path(manifest.store).exists()
        return shlex.join(words + asked.words(prepare=is_missing))
    # Submitted by an older phase2hpc, which did not write down by what profile.
    return shlex.join(words) + (" --profile PROFILE" if submitted else "")
