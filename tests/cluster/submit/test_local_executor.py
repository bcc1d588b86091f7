"""The local executor for real: the same call, folder and logs as under Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paused import PausePoint

from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.cluster.submit import local_executor as local
from phase2hpc.cluster.submit.slurm_executor import JobScript
from phase2hpc.errors import Phase2Error
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.runs.state import status_of

FEW = ("--set", "hidden=16", "--set", "head_hidden=8", "--batch-size", "4", "--max-samples", "40")


@pytest.fixture
def here(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny.store, "tiny.h5")
    Path("here.yaml").write_text("executor: local\n")
    return tmp_path


def submission(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "phase2hpc.cli.main", "submit", "--level", "lite", "--profile",
         "here.yaml", "--store", "tiny.h5", *arguments],
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}, start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def at_step(step: int, folder: Path) -> PausePoint:
    return PausePoint(folder / "paused", "phase2hpc.training.trainer:Trainer.optimise", step)


def test_e3nn_from_submission_to_result(here: Path) -> None:
    out, err = (
        process := submission("--epochs", "1", "--max-samples", "8", "--run-id", "a")
    ).communicate()
    assert process.returncode == 0, err
    run = RunDirectory(here / "models/multitask_lite_e3nn/run_a")
    manifest = run.read_manifest()
    (job_id,) = manifest.job_ids
    assert manifest.state == "finished" and f"job {job_id} runs here" in out
    log = (run.path / "job" / f"{job_id}_0_log.out").read_text()
    assert "epoch 1/1" in log and log in out and f"results: {run.path}" in out


def test_killed_and_resumed_by_submit(here: Path, processes: list[subprocess.Popen[str]]) -> None:
    """The same numbers as without the kill."""
    arguments = ("--algorithm", "cgcnn", "--epochs", "20", *FEW)
    whole = submission(*arguments, "--run-id", "whole")
    pause = at_step(13, here)
    killed = submission(
        *arguments, "--run-id", "killed", "--checkpoint-steps", "7", environment=pause.environment
    )
    processes += [whole, killed]
    family = here / "models/multitask_cgcnn_lite"
    run = RunDirectory(family / "run_killed")
    pause.wait(killed)
    os.kill(run.read_manifest().pid, signal.SIGKILL)
    _, err = killed.communicate(timeout=300)
    assert killed.returncode == 1 and "exited with code 137" in err, err
    assert status_of(run, SlurmScheduler()).state == "interrupted"
    resumed = submission("--algorithm", "cgcnn", "--resume", "--run-id", "killed")
    processes.append(resumed)
    out, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0 and "resuming from step" in out, err
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    assert run.metrics_json.read_text() == (family / "run_whole/metrics.json").read_text()
    assert len(run.read_manifest().job_ids) == 2


def test_a_signal_stops_it_with_state_saved(
    here: Path, processes: list[subprocess.Popen[str]]
) -> None:
    pause = at_step(13, here)
    process = submission(
        "--algorithm", "cgcnn", *FEW, "--run-id", "a", environment=pause.environment
    )
    processes.append(process)
    run = RunDirectory(here / "models/multitask_cgcnn_lite/run_a")
    pause.wait(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert "state saved at step" in err and "--resume" in err.splitlines()[-1]
    assert run.read_manifest().state == "stopped"


# ---- the runner itself, with short calls -------------------------------------------------------


def script(folder: Path, count: int | None = None) -> JobScript:
    return JobScript(folder, sys.executable, "this python", {"time": 5}, count=count)


def call(program: str) -> Any:
    return exec, (program,)


def test_75_runs_again_until_it_is_done(tmp_path: Path, capfd: Any) -> None:
    program = (
        "import os, sys\n"
        "n = int(os.environ['PHASE2HPC_RESTARTS'])\n"
        "print('start', n, flush=True)\n"
        "sys.exit(75 if n < 2 else 0)"
    )
    began: list[list[str]] = []
    local.run_calls(script(tmp_path), [call(program)], 1, began.append)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("start")]
    assert lines == ["start 0", "start 1", "start 2"]
    (log,) = tmp_path.glob("local-*_0_log.out")
    assert log.read_text().count("start") == 3 and began == [[log.name.removesuffix("_0_log.out")]]


def test_teardown_lines_follow_any_end(tmp_path: Path, capfd: Any) -> None:
    lines = ('echo "down after $code"', "false")
    with_teardown = replace(script(tmp_path, 3), teardown=lines)
    calls = [call("print('first')"), call("raise SystemExit(5)"),
             call("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")]  # fmt: skip
    with pytest.raises(Phase2Error, match=r"_1 exited with code 5.*_2 exited with code 137"):
        local.run_calls(with_teardown, calls, 1, lambda ids: None)
    out = capfd.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("down")] == [
        "down after 0", "down after 5", "down after 137",
    ]  # fmt: skip


def test_one_that_fails_does_not_keep_the_others(tmp_path: Path, capfd: Any) -> None:
    calls = [call("print('first')"), call("raise SystemExit(5)"), call("print('last')")]
    with pytest.raises(Phase2Error, match=r"1 of 3 failed: local-\w+_1 exited with code 5"):
        local.run_calls(script(tmp_path, 3), calls, 1, lambda ids: None)
    out = capfd.readouterr().out
    assert out.index("first") < out.index("last")


def test_several_processes_know_each_other(tmp_path: Path, capfd: Any) -> None:
    program = (
        "import os\n"
        "print('rank', *(os.environ[k] for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')))\n"
        "print(os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'])"
    )
    local.run_calls(script(tmp_path), [call(program)], 2, lambda ids: None)
    logs = [next(tmp_path.glob(f"local-*_{rank}_log.out")).read_text() for rank in (0, 1)]
    assert ["rank 0 0 2" in logs[0], "rank 1 1 2" in logs[1]] == [True, True]
    ports = {line for log in logs for line in log.splitlines() if line.startswith("127.0.0.1")}
    assert len(ports) == 1
    assert "rank 1" not in capfd.readouterr().out
