"""A small run as ``submit`` leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phase2hpc.config.run_config import build_config
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, create_run

SETTINGS = {"hidden": 16, "layers": 2, "batch_size": 8, "max_samples": 40}


def submitted(models: Path, store: Path, **overrides: Any) -> RunDirectory:
    """A run as ``submit`` leaves it."""
    config = build_config(
        "cgcnn", "lite", ["band_gap"],
        {**SETTINGS, "store": store, "models_dir": models, **overrides},
    )  # fmt: skip
    run = create_run(models, "multitask_cgcnn_lite", "one")
    run.write_config(config)
    manifest = Manifest.for_run(run, config, store, None)
    manifest.state = "submitted"
    run.write_manifest(manifest)
    return run
