"""Job ids of Slurm and of the local executor."""

import pytest

from phase2hpc.runs.job_id import (
    array_id,
    current_job_id,
    is_job_id,
    is_slurm_job_id,
    new_local_job_id,
)


def test_ids() -> None:
    assert is_slurm_job_id("12") and is_slurm_job_id("12_3")
    for text in ("", "12_", "12 ", "12\n", "_3", "12_3_4", "local-ab", "../12", "-1", "12;x"):
        assert not is_slurm_job_id(text)
    assert is_job_id("12_3") and is_job_id("local-ab12_0") and is_job_id(new_local_job_id())
    for text in ("local-", "local-xyz", "local-ab/..", "12_0\n"):
        assert not is_job_id(text)
    assert [array_id(text) for text in ("12_3", "12", "local-ab_0")] == ["12", "12", "local-ab"]


def test_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert current_job_id() is None
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    assert current_job_id() == "14"
    # Slurm gives each element an id of its own, by which nobody names it.
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert current_job_id() == "12_3"
