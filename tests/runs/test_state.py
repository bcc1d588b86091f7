"""One state per run: every command prints the same word, whatever happened to the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.config.properties import GROUPS
from phase2hpc.config.run_config import build_config
from phase2hpc.runs import provenance
from phase2hpc.runs.lease import Lease
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory, create_run, family_folder
from phase2hpc.runs.state import ENDED, status_of

Command = Callable[..., tuple[int, str, str]]
# Takes a run as training does, says so and sleeps.
TRAIN = """
import sys, time
from pathlib import Path
from phase2hpc.runs.lease import Lease
from phase2hpc.runs.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
lease = Lease.acquire(run)
run.take_over()
print("training", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def make(models: Path, run_id: str = "one", **changes: Any) -> RunDirectory:
    config = build_config("cgcnn", "lite", GROUPS["core4"], seed=7)
    run = create_run(models, family_folder("cgcnn", "lite"), run_id)
    run.write_config(config)
    manifest = Manifest.for_run(run, config, models / "store.h5", None)
    for key, value in changes.items():
        setattr(manifest, key, value)
    run.write_manifest(manifest)
    return run


def words(command: Command, models: Path, name: str = "one") -> set[str]:
    """The state of a run in every command that prints it, as text and as JSON."""

    def out(*arguments: str) -> str:
        code, text, err = command(*arguments, "--models-dir", models)
        assert (code, err) == (0, ""), err
        return text

    found = set()
    for listing in (("status",), ("status", name), ("runs", "list")):
        (entry,) = (e for e in json.loads(out(*listing, "--json")) if e["run"] == name)
        found.add(entry["state"])
    found.add(json.loads(out("runs", "show", name, "--json"))["state"])
    rows = out("status").splitlines() + out("runs", "list").splitlines()
    for row in (row.split() for row in rows if row.startswith(name)):
        found |= {word for word in row if word in ENDED | {"running", "pending", "unknown"}}
    for line in out("status", name).splitlines() + out("runs", "show", name).splitlines():
        if line.startswith("state"):
            found.add(line.split()[1])
    (line,) = (
        li for li in out("runs", "show", name, "--handoff").splitlines() if "**state**" in li
    )
    found.add(line.split("**: ")[1].split()[0])
    plan = json.loads(out("runs", "prune", "--failed", "--dry-run", "--json"))
    found |= {entry["state"] for entry in plan["remove"] if entry["run"] == name}
    return found


def test_killed_by_sigkill(tmp_path: Path, command: Command) -> None:
    run = make(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "training\n"
        assert words(command, tmp_path) == {"running"}
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        # What the run itself has recorded does not change by that.
        assert run.read_manifest().state == "running"
        assert words(command, tmp_path) == {"interrupted"}
        detail = status_of(run, SlurmScheduler()).detail
        assert detail == (
            f"process {process.pid} on host {provenance.host()} exited without recording its state"
        )
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("state", ["stopped", "finished", "failed"])
def test_what_the_run_has_recorded(tmp_path: Path, command: Command, state: str) -> None:
    make(tmp_path, state=state, message="" if state == "finished" else "a reason")
    assert words(command, tmp_path) == {state}


def test_a_lease_alone_makes_a_run_running(tmp_path: Path, command: Command) -> None:
    run = make(tmp_path)
    assert words(command, tmp_path) == {"interrupted"}
    with Lease.acquire(run):
        assert words(command, tmp_path) == {"running"}


def test_a_process_on_another_host_is_judged_by_its_heartbeat(
    tmp_path: Path, command: Command
) -> None:
    run = make(tmp_path, host="n7", pid=5)
    run.lease.mkdir()
    file = run.lease / "t.json"
    for age, word in ((10, "running"), (1000, "interrupted")):
        then = datetime.now(UTC) - timedelta(seconds=age)
        record = {"token": "t", "host": "n7", "machine": "other", "pid": 5, "expiry": 90.0,
                  "renewed": then.isoformat()}  # fmt: skip
        file.write_text(json.dumps(record))
        os.utime(file, (then.timestamp(), then.timestamp()))
        assert words(command, tmp_path) == {word}


def test_a_job_that_nobody_can_ask_about(tmp_path: Path, command: Command) -> None:
    run = make(tmp_path, state="submitted", job_ids=["7"], job_folder="job")
    assert words(command, tmp_path) == {"unknown"}
    assert "no Slurm on this machine" in status_of(run, SlurmScheduler()).detail


def test_a_run_that_waits_for_its_turn_here(tmp_path: Path, command: Command) -> None:
    make(tmp_path, state="submitted", job_ids=["local-ab12_0"])
    assert words(command, tmp_path) == {"pending"}
    run = make(tmp_path / "x", state="submitted", pid=1, process_start="another boot")
    assert status_of(run, SlurmScheduler()).state == "interrupted"


def test_an_unreadable_manifest(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.manifest.write_text("{")
    status = status_of(run, SlurmScheduler())
    assert status.state == "unreadable" and "not JSON" in status.detail and status.over
    assert status.as_json()["state"] == "unreadable"
