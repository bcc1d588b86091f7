"""Command line that resumes a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory


def resume_command(run: RunDirectory, manifest: Manifest) -> str:
    """``submit`` with the resources of its newest job if it had one, else ``train``."""
    submitted = bool(manifest.job_ids) or manifest.submission is not None
    arguments = ["phase2hpc", "submit" if submitted else "train", "--resume", "--run-id", run.id]
    arguments += ["--algorithm", manifest.algorithm, "--level", manifest.level]
    models = run.path.parent.parent
    if models != Path("models"):
        arguments += ["--models-dir", str(models)]
    request = manifest.submission
    if request is not None:
        is_missing = manifest.store is not None and not Path(manifest.store).exists()
        return shlex.join(arguments + request.arguments(prepare=is_missing))
    # An older phase2hpc did not record the profile.
    return shlex.join(arguments) + (" --profile PROFILE" if submitted else "")
