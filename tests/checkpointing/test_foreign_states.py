"""Whole files of newer versions or with other content than a state."""

from typing import Any

import pytest
from checkpoints import SCALER, found_step, legacy_sealed, names, sealed, state_of, torch_saved

from phase2hpc.checkpointing.manager import load_best, load_newest, save_checkpoint
from phase2hpc.errors import InputError
from phase2hpc.runs.run_directory import RunDirectory

NEWER_STATE = torch_saved({"kind": "checkpoint", "schema_version": 99, "what": "ever"})
NEWER = [
    sealed(NEWER_STATE, version=3),
    sealed(NEWER_STATE),
    legacy_sealed(b"?", version=2),
    legacy_sealed(NEWER_STATE),
]


@pytest.mark.parametrize("content", NEWER)
def test_a_newer_version_is_named_and_left_alone(run: RunDirectory, content: bytes) -> None:
    run.checkpoint.write_bytes(content)
    run.best.write_bytes(content)
    for read in (lambda: load_newest(run), lambda: load_best(run.best)):
        with pytest.raises(InputError, match=r"version \d+.*: update phase2hpc"):
            read()
    assert names(run) == ["best.pt", "checkpoint.pt"]


@pytest.mark.parametrize("content", NEWER)
def test_a_newer_version_beside_an_older_one_is_set_aside(
    run: RunDirectory, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(run, state_of(4), 4, keep=2)
    run.checkpoint.rename(run.checkpoint_of(4))
    run.checkpoint.write_bytes(content)
    assert found_step(run) == 4
    assert "set aside as checkpoint.pt.newer-version" in caplog.text
    assert (run.path / "checkpoint.pt.newer-version").read_bytes() == content


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "best"}, "'kind'"),
        ({"step": "7"}, "'step'"),
        ({"model": {"w": [1.0]}}, "'model.w'"),
        ({"history": {"a": 1}}, "'history'"),
        ({"rng": []}, "'rng'"),
        ({"scaler": {**SCALER, "mean": "0"}}, "'scaler.mean'"),
        ({"schema_version": "2"}, "schema version is '2'"),
        ({"schema_version": True}, "schema version is True"),
        ({"schema_version": 0}, "schema version is 0"),
        ({"numerics_version": "1"}, "'numerics_version'"),
    ],
)
def test_a_whole_file_of_other_content_falls_back(
    run: RunDirectory, caplog: pytest.LogCaptureFixture, change: dict[str, Any], problem: str
) -> None:
    save_checkpoint(run, state_of(1), 1, keep=2)
    save_checkpoint(run, state_of(2), 2, keep=2)
    save_checkpoint(run, {**state_of(3), **change}, 3, keep=2)
    assert found_step(run) == 2
    (line,) = caplog.messages
    assert problem in line and "\n" not in line


def test_a_key_that_is_missing_falls_back(run: RunDirectory) -> None:
    whole = state_of(2)
    for key in whole:
        save_checkpoint(run, state_of(1), 1, keep=2)
        save_checkpoint(run, {k: v for k, v in whole.items() if k != key}, 2, keep=2)
        assert found_step(run) == 1
        run.checkpoint_of(1).rename(run.checkpoint)
