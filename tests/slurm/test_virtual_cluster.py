"""The virtual cluster treats jobs as a cluster does: what the other tests here stand on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
from virtual_cluster import VirtualCluster, processes

# Says which signals it gets, and lives on.
LISTENER = """
import os, signal, sys, time
def heard(number, frame):
    print(signal.Signals(number).name, "in life", os.environ.get("SLURM_RESTART_COUNT", "0"), flush=True)
for name in ("SIGUSR2", "SIGTERM"):
    signal.signal(getattr(signal, name), heard)
print("began life", os.environ.get("SLURM_RESTART_COUNT", "0"), "on", os.environ["SLURMD_NODENAME"], flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    time.sleep(0.1)
print("ended", flush=True)
"""  # noqa: E501


def listening(seconds: int) -> str:
    """Lines of bash: a task that listens so long in its first life and ends at once in others."""
    return f"""
trap : TERM
srun python3 -u -c '{LISTENER}' $([ -n "$SLURM_RESTART_COUNT" ] && echo 0 || echo {seconds})
"""


@pytest.fixture(scope="module")
def jobs(slurm: VirtualCluster, slurm_that_warns: VirtualCluster) -> dict[str, str]:
    """The long ones, all at the same time."""
    ids = {
        "limit": slurm.sbatch(listening(100), "--time=1", "--signal=USR2@30"),
        "low": slurm.sbatch(listening(100), "--partition=low", "--signal=USR2@30"),
        "grace": slurm_that_warns.sbatch(listening(100), "--partition=grace", "--signal=USR2@30"),
        "fragile": slurm.sbatch(listening(100), "--partition=fragile"),
        "array": slurm.sbatch(listening(100), "--array=0-1"),
    }
    for name in ("low", "fragile", "array"):
        begun(slurm, f"{ids[name]}_1" if name == "array" else ids[name])
    begun(slurm_that_warns, ids["grace"])
    for cluster, node in ((slurm, "n3"), (slurm_that_warns, "n4")):
        cluster.sbatch("sleep 3", "--partition=high", "--exclusive", f"--nodelist={node}")
    slurm.kill_node(slurm.job(ids["fragile"])["NodeList"])
    return ids


def begun(slurm: VirtualCluster, job_id: str) -> None:
    slurm.wait_until(lambda: "began life 0" in slurm.log_of(job_id), "it began", 60, job_id)


def test_two_nodes_with_gpus(slurm: VirtualCluster) -> None:
    said = slurm.run(
        "srun", "--nodes=2", "--gpus-per-node=1",
        "bash", "-c", "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES",
    )  # fmt: skip
    assert sorted(said.splitlines()) == ["n1 0", "n2 0"]


def test_a_job_of_another_user(slurm: VirtualCluster) -> None:
    script = slurm.folder / "jobs" / "user.sh"
    script.write_text("#!/bin/bash\nid -un\n")
    words = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sbatch"]
    job_id = slurm.run(*words, "--parsable", "--output=%j.log", "-D", script.parent, script).strip()
    slurm.wait_for(job_id, "COMPLETED")
    assert slurm.log_of(job_id) == "nobody\n"


def test_exit_codes(slurm: VirtualCluster) -> None:
    job_id = slurm.sbatch("exit 3")
    assert slurm.wait_for(job_id, "FAILED")["ExitCode"] == "3:0"


def test_one_element_of_an_array_is_requeued(slurm: VirtualCluster, jobs) -> None:
    element = f"{jobs['array']}_1"
    slurm.requeue(element)
    slurm.wait_for(element, "COMPLETED", restarts=1)
    # KillWait: SIGTERM first. And the log is appended to.
    words = ("began life 0", "SIGTERM in life 0", "began life 1", "ended")
    places = [slurm.log_of(element).find(word) for word in words]
    assert -1 not in places and places == sorted(places)
    other = f"{jobs['array']}_0"
    assert slurm.job(other)["Restarts"] == "0" and slurm.state(other) == "RUNNING"
    slurm.cancel(jobs["array"])
    slurm.wait_for(other, "CANCELLED")


def test_preemption_without_warning(slurm: VirtualCluster, jobs) -> None:
    slurm.wait_for(jobs["low"], "COMPLETED", restarts=1)
    log = slurm.log_of(jobs["low"])
    assert "SIGTERM in life 0" in log and "SIGUSR2 in life" not in log
    assert "began life 1 on n3" in log


def test_preemption_with_warning(slurm_that_warns: VirtualCluster, jobs) -> None:
    # At least once: Slurm 24.11 starts it once more after it has finished.
    slurm_that_warns.wait_for(jobs["grace"], "COMPLETED")
    log = slurm_that_warns.log_of(jobs["grace"])
    assert 0 < log.find("SIGUSR2 in life 0") < log.find("SIGTERM in life 0")
    assert "began life 1 on n4" in log


def test_a_node_that_dies(slurm: VirtualCluster, jobs) -> None:
    """The job goes on on the other node; the dead one comes back."""
    record = slurm.wait_for(jobs["fragile"], "COMPLETED", restarts=1)
    log = slurm.log_of(jobs["fragile"])
    assert "SIGTERM" not in log
    (dead,) = {"n5", "n6"} - {record["NodeList"]}
    assert f"began life 0 on {dead}" in log and f"began life 1 on {record['NodeList']}" in log
    assert dead not in slurm.responding_nodes()
    slurm.restore_node(dead)


def test_warning_before_the_time_limit(slurm: VirtualCluster, jobs) -> None:
    warned = "SIGUSR2 in life 0"
    slurm.wait_until(lambda: warned in slurm.log_of(jobs["limit"]), "it is warned", 90)
    assert slurm.state(jobs["limit"]) == "RUNNING"
    slurm.cancel(jobs["limit"])


def test_the_controller_may_be_away(slurm: VirtualCluster) -> None:
    job_id = slurm.sbatch("sleep 3; echo done")
    slurm.wait_for(job_id, "RUNNING")
    slurm.stop_controller()
    try:
        with pytest.raises((AssertionError, subprocess.TimeoutExpired)):
            slurm.run("squeue", timeout=5)
    finally:
        slurm.start_controller()
    slurm.wait_for(job_id, "COMPLETED")


def test_without_sacct(slurm: VirtualCluster) -> None:
    with pytest.raises(AssertionError, match="accounting storage is disabled"):
        slurm.run("sacct")


def test_sacct(slurm_with_sacct: VirtualCluster) -> None:
    """Of a job that ended well, of a cancelled one, and of one with a step over its memory: the
    job's own record is then of what its script said."""
    cluster = slurm_with_sacct
    ids = [cluster.sbatch("exit 0"), cluster.sbatch("sleep 60")]
    cluster.cancel(ids[-1])
    expected = {ids[0]: "COMPLETED", ids[1]: "CANCELLED"}
    if cluster.limits_memory:
        ids.append(cluster.sbatch("srun python3 -c 'held = bytearray(10**9)'", "--mem=100M"))
        expected |= {ids[2]: "FAILED", f"{ids[2]}.0": "OUT_OF_MEMORY"}

    def states() -> dict[str, str]:
        lines = cluster.run("sacct", "-n", "-P", "-o", "JobID,State").splitlines()
        # 'CANCELLED by 0'
        return {job_id: state.split()[0] for job_id, state in (x.split("|") for x in lines)}

    cluster.wait_until(lambda: expected.items() <= states().items(), "sacct knows them", 60)


def test_nothing_is_left(tmp_path) -> None:
    """Neither by a session that ends, not even of a process that its job set free, nor, as soon
    as another begins, by one that was killed."""
    cluster = VirtualCluster()
    cluster.start()
    cluster.sbatch("setsid sleep 1000 & touch begun; wait", f"--chdir={tmp_path}")
    cluster.wait_until((tmp_path / "begun").exists, "it began", 30)
    # As the end of the session's process would.
    os.close(cluster.lock)
    again = VirtualCluster()
    with contextlib.ExitStack() as stack:
        stack.callback(again.stop)
        assert again.folder == cluster.folder and not again.folder.exists()
        assert not list(processes(again.configuration))
        again.start()
        again.wait_for(again.sbatch("true"), "COMPLETED")
    assert not again.folder.exists() and not list(processes(again.configuration))


def test_a_machine_without_slurm_skips_and_says_why(tmp_path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    words = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--durations=0"]
    done = subprocess.run(
        [*words, __file__, "--basetemp", tmp_path / "tests"], env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    reasons = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert reasons and all("no Slurm here" in line for line in reasons)
    assert "passed" not in done.stdout
