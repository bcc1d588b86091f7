"""What runs on the node: exit codes, time limits, and the end of hopeless restarts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from submitted_run import submitted

from phase2hpc.cluster.node import train_task as task
from phase2hpc.errors import Phase2Error
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory


def on_a_node(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The call in a process of its own, as submitit makes it."""
    program = (
        f"from phase2hpc.cluster.node import train_task; train_task.run_training(*{arguments!r})"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )  # fmt: skip


def test_to_the_end_and_once_more(tiny: Any, tmp_path: Path) -> None:
    run = submitted(tmp_path, tiny.store, epochs=2)
    ended = on_a_node(str(run.path), 1.0, 120, SLURM_JOB_ID="17")
    assert ended.returncode == 0, ended.stderr
    manifest = run.read_manifest()
    assert (manifest.state, manifest.epoch, manifest.job_ids) == ("finished", 2, ["17"])
    assert (manifest.restarts, manifest.device, manifest.processes) == (0, "cpu", 1)
    # Requeued by hand after its end: there is nothing to do.
    ended = on_a_node(str(run.path), 1.0, 120, SLURM_JOB_ID="17", PHASE2HPC_RESTARTS="1")
    assert ended.returncode == 0 and "already finished" in ended.stdout, ended.stderr


def test_the_jobs_limit_ends_it_with_75_and_other_settings_go_on(tiny: Any, tmp_path: Path) -> None:
    run = submitted(tmp_path, tiny.store, epochs=100_000)
    end = str(int(time.time()) + 20)
    ended = on_a_node(str(run.path), 20 / 3600, 30, SLURM_JOB_END_TIME=end)
    assert ended.returncode == 75, ended.stderr
    line = ended.stderr.splitlines()[-1]
    words = "the job's time limit is near: state saved at step "
    assert line.startswith("phase2hpc: " + words)
    manifest = run.read_manifest()
    assert manifest.state == "stopped" and manifest.message.startswith(words)
    # Resumed with fewer epochs than planned, as a job asks for them.
    config = run.read_config()
    fewer = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": manifest.epoch + 1})}
    )
    ended = on_a_node(str(run.path), None, 2, fewer.to_json(), PHASE2HPC_RESTARTS="1")
    assert ended.returncode == 0 and "schedule is stretched" in ended.stdout, ended.stderr
    manifest = run.read_manifest()
    assert (manifest.state, manifest.restarts, manifest.restarts_without_progress) == (
        "finished", 1, 0,
    )  # fmt: skip


@pytest.mark.parametrize("began", [-7200, 7200])
def test_a_wrong_clock_does_not_stop_it(began: int, tiny: Any, tmp_path: Path) -> None:
    """A node whose clock is ahead by more than the limit, or behind."""
    run = submitted(tmp_path, tiny.store, epochs=2)
    start = int(time.time()) + began
    times = {"SLURM_JOB_START_TIME": str(start), "SLURM_JOB_END_TIME": str(start + 3600)}
    ended = on_a_node(str(run.path), 1.0, 2, **times)
    assert ended.returncode == 0 and run.read_manifest().state == "finished", ended.stderr
    when = "ago" if began < 0 else "from now"
    words = rf"^phase2hpc: WARNING: by this node's clock the job began [12]:\d\d:\d\d {when}: "
    assert re.search(words, ended.stderr)


def test_the_users_own_limit_is_not_requeued(tiny: Any, tmp_path: Path) -> None:
    run = submitted(tmp_path, tiny.store, epochs=100_000, max_hours=1e-6)
    ended = on_a_node(str(run.path), 1.0, 120)
    assert ended.returncode == task.MAX_HOURS_EXIT_CODE, ended.stderr
    assert "by --max-hours: not requeued" in ended.stderr
    assert run.read_manifest().state == "stopped"


def test_a_users_mistake_is_one_line(tmp_path: Path) -> None:
    run = submitted(tmp_path, tmp_path / "gone.h5")
    ended = on_a_node(str(run.path), 1.0, 120)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("phase2hpc: no store at")


# ---- restarts ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setattr(task, "_newest_step", lambda run: json.loads(run.metrics_csv.read_text()))
    run = submitted(tmp_path, tmp_path / "store.h5")
    at_step(run, 0)
    return run


def at_step(run: RunDirectory, step: int) -> None:
    run.metrics_csv.write_text(str(step))


def start(run: RunDirectory, restarts: int, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv(task.RESTARTS_VARIABLE, str(restarts))
    task.count_restart(run)
    return run.read_manifest()


def test_three_restarts_without_progress_end_it(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(run, 0, monkeypatch).restarts == 0
    assert start(run, 1, monkeypatch).restarts_without_progress == 1
    assert start(run, 2, monkeypatch).restarts_without_progress == 2
    with pytest.raises(Phase2Error, match="one: restarted 3 times .* later than step 0: look in"):
        start(run, 3, monkeypatch)
    # By hand, which is a job of its own: it counts anew.
    assert start(run, 0, monkeypatch).restarts_without_progress == 0
    assert start(run, 1, monkeypatch).restarts_without_progress == 1


def test_progress_counts_anew(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    start(run, 0, monkeypatch)
    start(run, 1, monkeypatch)
    start(run, 2, monkeypatch)
    at_step(run, 10)
    assert start(run, 3, monkeypatch).restarts_without_progress == 0
    assert start(run, 4, monkeypatch).restarts_without_progress == 1
    manifest = run.read_manifest()
    assert (manifest.restarts, manifest.step_at_start) == (4, 10)


def test_the_newest_step_is_read_from_the_checkpoints(trained: Any, tmp_path: Path) -> None:
    run = trained["cgcnn"]
    assert task._newest_step(run) == run.read_manifest().step
    assert task._newest_step(RunDirectory(tmp_path)) == 0
