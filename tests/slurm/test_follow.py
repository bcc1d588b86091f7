"""``status``, ``logs -f`` and ``cancel`` on a real Slurm, with and without accounting: what they
say of a job is what became of it, and what is cancelled stays so and can go on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from virtual_cluster import VirtualCluster

from phase2hpc.runs.run_directory import RunDirectory, family_folder
from phase2hpc.runs.state import ENDED

PHASE2HPC = Path(sys.executable).with_name("phase2hpc")
SLOWLY = Path(__file__).with_name("slowly")
FLAGS = ("--algorithm", "cgcnn", "--level", "lite", "--epochs", "4", "--batch-size", "4",
         "--max-samples", "40", "--threads", "1", "--set", "hidden=16")  # fmt: skip


@dataclass
class User:
    """Somebody at a login node of a cluster, with a models folder."""

    cluster: VirtualCluster
    folder: Path
    store: Path

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PHASE2HPC, *map(str, words), "--models-dir", self.folder / "models"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.folder, env=self.cluster.environment | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def says(self, *words: object) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        return out

    def submit(
        self, name: str, *words: object, partition: str = "main", memory: float = 1.0,
        seconds: float = 0.0,
    ) -> tuple[str, RunDirectory]:  # fmt: skip
        """A run whose steps take so long at least; its job's id."""
        profile = self.folder / f"{name}.yaml"
        profile.write_text(
            f"partition: {partition}\ncpus: 1\nmemory_gb: {memory}\nenvironment:\n"
            f'  PYTHONPATH: "{SLOWLY}"\n  OMP_NUM_THREADS: "1"\n  STEP_SECONDS: "{seconds}"\n'
        )
        out = self.says("submit", *FLAGS, "--store", self.store, "--profile", profile,
                        "--run-id", name, *words)  # fmt: skip
        job = re.search(r"^(?:job|array) (\d+) ", out, re.M)
        assert job is not None
        family = self.folder / "models" / family_folder("cgcnn", "lite")
        return job[1], RunDirectory(family / f"run_{name}")

    def status(self, name: str) -> tuple[str, str]:
        """The state, and all that is said."""
        text = self.says("status", name)
        found = re.search(r"^state +(\w+)$", text, re.M)
        assert found is not None, text
        return found[1], text

    def wait_for(self, name: str, *states: str) -> str:
        def there() -> str:
            state, text = self.status(name)
            assert state in states or state not in ENDED, text
            return text if state in states else ""

        return self.cluster.wait_until(there, f"{name} is {' or '.join(states)}", 200)


MakeUser = Callable[[VirtualCluster], User]


@pytest.fixture
def user(tiny, tmp_path) -> MakeUser:
    return lambda cluster: User(cluster, tmp_path, tiny.store)


def test_from_pending_to_finished_without_accounting(slurm: VirtualCluster, user: MakeUser) -> None:
    me = user(slurm)
    blocking = slurm.sbatch("sleep 600", "--partition=high", "--nodelist=n3", "--exclusive")
    slurm.wait_for(blocking, "RUNNING")
    job, _ = me.submit("one", partition="low", seconds=1.5)
    state, text = me.status(job)
    assert state == "pending" and re.search(rf"job {job} PENDING \(\w+\)", text)
    follower = me.start("logs", "one", "-f")
    watcher = me.start("status", "one", "--watch")
    slurm.cancel(blocking)
    text = me.wait_for("one", "running")
    assert re.search(r"^epochs +\d of 4", text, re.M) and f"job {job} on n3" in text
    # Across a requeue.
    slurm.requeue(job)
    text = me.wait_for("one", "finished")
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == 0
    assert out.count("results: ") == 1 and "resuming from step" in out
    assert [out.count(f"epoch {epoch}/4  loss") for epoch in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert "is requeued" in err and "is finished" in err
    out, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0 and "one: finished" in out


def test_cancelled_stays_cancelled_and_goes_on(slurm: VirtualCluster, user: MakeUser) -> None:
    me = user(slurm)
    job, _ = me.submit("many", "--seeds", "0-1", seconds=1.5)
    for k in range(2):
        me.wait_for(f"many-s{k}", "running")
    assert re.search(r"^many \(2 runs\) +2 running ", me.says("status"), re.M)
    said = me.says("cancel", f"{job}_1", "--yes")
    assert "many-s1" in said and "many-s0" not in said
    slurm.wait_for(f"{job}_1", "CANCELLED")
    text = me.wait_for("many-s1", "stopped")
    assert "SIGTERM: state saved at step" in text
    assert me.status("many-s0")[0] == "running"
    me.says("cancel", "many", "--yes")
    slurm.wait_for(f"{job}_0", "CANCELLED")
    assert slurm.job(f"{job}_0")["Restarts"] == slurm.job(f"{job}_1")["Restarts"] == "0"
    said = me.says("cancel", "many-s1", "--yes")
    assert len(said.splitlines()) == 1 and "no job to cancel, it is stopped" in said
    command = re.search(r"^resume +phase2hpc (.*)$", text, re.M)
    assert command is not None
    me.says(*shlex.split(command[1]))
    assert "resuming from step" in me.wait_for("many-s1", "finished") + me.says("logs", "many-s1")


def test_dead_without_accounting(slurm: VirtualCluster, user: MakeUser) -> None:
    me = user(slurm)
    job, run = me.submit("killed", seconds=1.5)
    me.wait_for("killed", "running")
    os.kill(run.read_manifest().pid, signal.SIGKILL)
    slurm.wait_for(job, "FAILED")
    state, text = me.status("killed")
    assert state == "interrupted" and f"job {job} FAILED, killed by SIGKILL" in text
    assert "srun: error: n1: task 0: Killed" in text or "srun: error: n2: task 0: Killed" in text
    waiting, _ = me.submit("waiting", "--after", me.submit("failing", memory=15, seconds=9)[0])
    me.says("cancel", "failing", "--yes")
    slurm.wait_for(waiting, "CANCELLED")
    state, text = me.status("waiting")
    assert (
        state == "interrupted" and f"job {waiting} CANCELLED" in text and "before training" in text
    )


def test_node_lost(slurm: VirtualCluster, user: MakeUser) -> None:
    me = user(slurm)
    job, _ = me.submit("lost", partition="fragile", seconds=1.5)
    me.wait_for("lost", "running")
    # As on a site that does not requeue by itself.
    slurm.run("scontrol", "update", f"JobId={job}", "Requeue=0")
    node = slurm.job(job)["NodeList"]
    slurm.kill_node(node)
    try:
        state, text = me.status("lost")
        assert state in ("unresponsive", "interrupted")
        text = me.wait_for("lost", "interrupted")
        assert f"job {job} NODE_FAIL" in text
    finally:
        slurm.restore_node(node)


def test_dead_with_accounting(slurm_with_sacct: VirtualCluster, user: MakeUser) -> None:
    me = user(slurm_with_sacct)
    job, _ = me.submit("cancelled")
    me.says("cancel", job, "--yes")
    slurm_with_sacct.wait_for(job, "CANCELLED")
    text = me.wait_for("cancelled", "interrupted", "stopped")
    assert "CANCELLED by root" in text or "state saved" in text
    if not slurm_with_sacct.limits_memory:
        pytest.skip("no cgroups to limit memory with")
    job, _ = me.submit("large", memory=0.12)
    slurm_with_sacct.wait_for(job, "FAILED", "OUT_OF_MEMORY")
    text = me.wait_for("large", "interrupted")
    assert f"job {job} OUT_OF_MEMORY" in text and "oom" in text
