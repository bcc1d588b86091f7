"""Ensembles by their id: members, completeness, sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phase2hpc.config.run_config import build_config
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import ensemble_of, find_ensemble
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.model_selection import runs_to_predict_with
from phase2hpc.runs.run_directory import RunDirectory, create_run


def member(models: Path, name: str, ensemble: str, seed: int = 0, **overrides: Any) -> RunDirectory:
    config = build_config("cgcnn", "std", ["band_gap"], overrides, seed=seed)
    run = create_run(models, "multitask_cgcnn_std", name)
    run.write_config(config)
    manifest = Manifest.for_run(run, config, models / "store.h5", "c0ffee")
    manifest.state, manifest.ensemble, manifest.ensemble_size = "finished", ensemble, 2
    run.write_manifest(manifest)
    return run


def test_an_ensemble_is_found_by_its_id_and_by_its_folder(tmp_path: Path) -> None:
    runs = [member(tmp_path, f"e-s{seed}", "e", seed) for seed in (0, 1)]
    other = member(tmp_path, "single", "another")
    found = find_ensemble(tmp_path, "e")
    assert found is not None and list(found.members) == runs
    assert not found.is_sweep and found.unfinished() == []
    found.check()
    assert found.results.path == tmp_path / "multitask_cgcnn_std" / "ensemble_e"
    found.results.path.mkdir()
    assert find_ensemble(Path("elsewhere"), str(found.results.path)) == found
    assert ensemble_of(runs[0]) == found and find_ensemble(tmp_path, "nothing") is None
    assert runs_to_predict_with(tmp_path, ["e"]) == runs
    assert runs_to_predict_with(tmp_path, ["e", "single"]) == [*runs, other]
    with pytest.raises(InputError, match="the same run twice"):
        runs_to_predict_with(tmp_path, ["e", "e-s0"])


def test_a_run_hides_an_ensemble_of_its_name(tmp_path: Path) -> None:
    member(tmp_path, "x-s0", "x")
    assert find_ensemble(tmp_path, "x") is not None
    member(tmp_path, "x", "y")
    assert find_ensemble(tmp_path, "x") is None


def test_one_that_is_not_whole_does_not_predict(tmp_path: Path) -> None:
    first = member(tmp_path, "e-s0", "e")
    with pytest.raises(InputError, match="1 missing"):
        runs_to_predict_with(tmp_path, ["e"])
    second = member(tmp_path, "e-s1", "e", 1)
    second.update_manifest(state="stopped")
    with pytest.raises(InputError, match=r"not all of its runs are finished \(e-s1\)"):
        runs_to_predict_with(tmp_path, ["e"])
    second.update_manifest(state="finished", store_hash="other")
    with pytest.raises(InputError, match="different stores"):
        runs_to_predict_with(tmp_path, ["e"])
    assert runs_to_predict_with(tmp_path, [first.id]) == [first]


def test_a_sweep_is_no_ensemble(tmp_path: Path) -> None:
    runs = [member(tmp_path, f"e-lr{lr}", "e", lr=lr) for lr in (0.001, 0.002)]
    found = find_ensemble(tmp_path, "e")
    assert found is not None and found.is_sweep and list(found.members) == runs
    with pytest.raises(InputError, match=r"is a sweep, whose runs differ in lr"):
        runs_to_predict_with(tmp_path, ["e"])
