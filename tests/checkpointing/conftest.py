"""A run directory for checkpoints."""

from pathlib import Path

import pytest

from phase2hpc.runs.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)
