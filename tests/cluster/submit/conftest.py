"""A working directory with profiles, and plans of what would be submitted from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from plans import CONTAINER, CPU, GPU, LOCAL, MakePlan

from phase2hpc.cluster.submit.plan import Plan, SubmitRequest, make_plans
from phase2hpc.cluster.submit.resources import ResourceOverrides
from phase2hpc.training.request import TrainRequest


@pytest.fixture
def site(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a store, an image and profiles; no Slurm on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    shutil.copy(tiny.store, "tiny.h5")
    Path("image.sif").write_bytes(b"hsqs")
    Path("jobs").mkdir()
    for name, text in (("cpu", CPU), ("gpu", GPU), ("container", CONTAINER), ("here", LOCAL)):
        Path(f"jobs/{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def plan(site: Path) -> MakePlan:
    """``plan("cpu", lr=1e-2, train={...}, wanted={...}, seeds="0-1", ...)``."""

    def make(
        profile: str = "cpu",
        *,
        train: dict[str, Any] | None = None,
        wanted: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        **job: Any,
    ) -> Plan:
        request = TrainRequest(
            **{
                "algorithm": "e3nn",
                "level": "std",
                "models_dir": Path("models"),
                "store": Path("tiny.h5"),
                "run_id": "mine",
                "overrides": overrides or {},
                **(train or {}),
            }
        )
        resources = ResourceOverrides(**{"time": 2.0, **(wanted or {})})
        (plan,) = make_plans(SubmitRequest(request, profile, wanted=resources, **job))
        return plan

    return make
