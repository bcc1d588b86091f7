"""``--after``: what Slurm and the runs say of a job decides before a job is submitted.

Slurm's texts are recorded; tests/slurm/test_dependencies.py has the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.cluster.submit.dependencies import dependency_ids
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import create_run

UNKNOWN = ("", "slurm_load_jobs error: Invalid job id specified\n", 1)
Queue = Callable[..., None]


@pytest.fixture
def queue(slurm_commands: Any) -> Queue:
    """``queue({"7": "RUNNING"}, accounting={...})``: what squeue and sacct know."""

    def put(jobs: dict[str, str], accounting: dict[str, str] | None = None) -> None:
        lines = [f"{job}|{state}|0|0|1:00|9:00|N/A|n1|None||\n" for job, state in jobs.items()]
        answers = {"sbatch": ("", "", 0), "squeue": ("".join(lines), "", 0) if jobs else UNKNOWN}
        if accounting is not None:
            kept = [f"{j}|{state}|1:0|60|Unknown|n1|None|\n" for j, state in accounting.items()]
            answers["sacct"] = ("".join(kept), "", 0)
        slurm_commands(**answers)

    return put


def run(models: Path, run_id: str, state: str, job: str | None, **said: Any) -> None:
    made = create_run(models, "multitask_lite_cgcnn", run_id)
    made.write_manifest(
        Manifest(run_id=run_id, algorithm="cgcnn", level="lite", properties=["band_gap"], epochs=9,
                 seed=0, state=state, job_ids=[job] if job else [], **said)
    )  # fmt: skip


def test_nothing_asked(tmp_path: Path) -> None:
    assert dependency_ids(None, tmp_path) == dependency_ids("", tmp_path) == []


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED"])
def test_a_job_that_has_not_ended(queue: Queue, tmp_path: Path, state: str) -> None:
    queue({"7": state})
    assert dependency_ids("7", tmp_path) == ["7"]


def test_a_running_job_while_the_accounting_is_down(
    queue: Queue, slurm_commands: Any, tmp_path: Path
) -> None:
    queue({"7": "RUNNING"})
    slurm_commands(sacct=("", "sacct: error: Unable to connect to slurmdbd: refused\n", 1))
    assert dependency_ids("7", tmp_path) == ["7"]


def test_a_job_that_has_succeeded(queue: Queue, tmp_path: Path, capsys: Any) -> None:
    queue({"7": "COMPLETED"})
    assert dependency_ids("7", tmp_path) == []
    assert capsys.readouterr().err == "--after 7: has succeeded, nothing to wait for\n"
    queue({}, accounting={"7": "COMPLETED"})
    assert dependency_ids("7", tmp_path) == []


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"])
def test_a_job_that_has_failed_is_refused(queue: Queue, tmp_path: Path, state: str) -> None:
    queue({"7": state})
    with pytest.raises(InputError, match=rf"--after 7: job 7 has ended \({state}.* never start"):
        dependency_ids("7", tmp_path)
    queue({}, accounting={"7": state})
    with pytest.raises(InputError, match=rf"--after 7: job 7 has ended \({state}.* never start"):
        dependency_ids("7", tmp_path)


@pytest.mark.parametrize("accounting", [None, {}])
def test_an_unknown_job_is_refused(
    queue: Queue, tmp_path: Path, accounting: dict[str, str] | None
) -> None:
    queue({}, accounting=accounting)
    with pytest.raises(InputError, match="--after 7: Slurm has no record of this job"):
        dependency_ids("7", tmp_path)


def test_an_array_counts_by_its_elements(queue: Queue, tmp_path: Path) -> None:
    queue({"7_0": "COMPLETED", "7_1": "RUNNING"})
    assert dependency_ids("7", tmp_path) == ["7"]
    # The first element has left the queue, and failed.
    queue({"7_1": "RUNNING"}, accounting={"7_0": "FAILED", "7_1": "RUNNING"})
    with pytest.raises(InputError, match="job 7_0 has ended"):
        dependency_ids("7", tmp_path)


def test_without_an_answer_nothing_is_submitted(slurm_commands: Any, tmp_path: Path) -> None:
    with pytest.raises(Phase2Error, match="no Slurm on this machine"):
        dependency_ids("7", tmp_path)
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    slurm_commands(sbatch=("", "", 0), squeue=("", away, 1))
    with pytest.raises(Phase2Error, match="Unable to contact"):
        dependency_ids("7", tmp_path)
    run(tmp_path, "one", "running", "7")
    with pytest.raises(Phase2Error, match="--after one: squeue: Unable to contact|load_jobs"):
        dependency_ids("one", tmp_path)


def test_runs_and_ensembles(queue: Queue, tmp_path: Path, capsys: Any) -> None:
    """A finished run needs no dependency, also where Slurm has forgotten its job."""
    run(tmp_path, "one", "running", "7")
    run(tmp_path, "done", "finished", "3")
    run(tmp_path, "s0", "finished", "9_0", ensemble="many")
    run(tmp_path, "s1", "submitted", "9_1", ensemble="many")
    queue({"7": "RUNNING", "9_1": "PENDING"})
    assert dependency_ids("one", tmp_path) == dependency_ids("7", tmp_path) == ["7"]
    assert dependency_ids("many, one,7", tmp_path) == ["9_1", "7"]
    assert dependency_ids("9", tmp_path) == ["9_1"]
    assert "has succeeded" not in capsys.readouterr().err
    assert dependency_ids("done,3", tmp_path) == []
    assert capsys.readouterr().err.count("has succeeded, nothing to wait for") == 2


@pytest.mark.parametrize(
    ("state", "job", "words"),
    [
        ("failed", "7", "run one is failed: .*--resume --run-id one"),
        ("stopped", "7", "run one is stopped: "),
        ("running", "7", "run one is interrupted .*no record of job 7"),
    ],
)
def test_runs_that_have_failed(
    queue: Queue, tmp_path: Path, state: str, job: str, words: str
) -> None:
    run(tmp_path, "one", state, job)
    queue({})
    for name in ("one", job):
        with pytest.raises(InputError, match=f"--after {name}: {words}"):
            dependency_ids(name, tmp_path)


def test_a_job_of_another_cluster(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "one", "running", "7", cluster="east")
    queue({"7": "RUNNING"})
    with pytest.raises(InputError, match=r"job 7 is on another cluster \(east\)"):
        dependency_ids("one", tmp_path)
    monkeypatch.setenv("SLURM_CLUSTERS", "east")
    assert dependency_ids("one", tmp_path) == ["7"]
