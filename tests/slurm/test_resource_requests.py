"""Batch scripts of every kind of profile, accepted and run by a real Slurm; variables of the shell
that sbatch reads; arrays; dependencies. The jobs run a line of shell instead of Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from virtual_cluster import VirtualCluster

from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.array_size import refuse_large_array
from phase2hpc.cluster.submit.batch_script import job_script
from phase2hpc.cluster.submit.resources import ResourceOverrides, allocate
from phase2hpc.cluster.submit.slurm_executor import JobScript, sbatch
from phase2hpc.config.algorithms import Resources
from phase2hpc.errors import InputError

LEVEL = Resources(hours=0.1, cpus=2, memory_gb=2, gpus=1)


@pytest.fixture
def cluster(slurm: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualCluster]:
    """The virtual cluster, as that of this process."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.configuration))
    yield slurm


def written(folder: Path, line: str = "true", wanted: Any = None, **profile: Any) -> JobScript:
    settings = Profile(**profile)
    allocation = allocate(LEVEL, settings, ResourceOverrides(**(wanted or {})), None)
    script = job_script(settings, allocation, None, "request", {}, [])
    # What checks the environment calls it too.
    python = f"bash -c {shlex.quote(f'[[ $1 = -c ]] || {line}')} bash"
    return replace(script, folder=folder, python=python)


def submitted(script: JobScript) -> str:
    script.folder.mkdir(exist_ok=True)
    file = script.folder / "job.sh"
    file.write_text(script.text())
    return sbatch(file)


WAYS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"NumTasks": "2", "CPUs/Task": "2", "MinMemoryNode": "2G", "TresPerNode": "gres:gpu:2"}),
    ({"gpu_request": "gpus"}, {"TresPerJob": "gres:gpu:2"}),
    ({"gpu_request": "gpus-per-node"}, {"TresPerNode": "gres:gpu:2"}),
    ({"gpu_request": "gpus-per-task"}, {"TresPerTask": "gres:gpu:1"}),
    ({"gpu_request": "none"}, {"NumTasks": "2", "NumCPUs": "4"}),
    ({"memory_request": "mem-per-cpu"}, {"MinMemoryCPU": "512M"}),
    ({"memory_request": "mem-per-gpu"}, {"MemPerTres": "gres:gpu:1024"}),
    ({"memory_request": "none"}, {"MinMemoryCPU": "500M"}),
    ({"memory_gb": 0}, {"MinMemoryNode": "0"}),
    ({"sbatch": {"mem-per-cpu": "300M"}}, {"MinMemoryCPU": "300M"}),
    ({"cpu_request": "cpus-per-gpu"}, {"CpusPerTres": "gres:gpu:2", "NumCPUs": "4"}),
    ({"cpu_request": "none"}, {"NumTasks": "2", "NumCPUs": "2"}),
    (
        {"cpu_request": "cpus-per-gpu", "memory_request": "mem-per-gpu", "gpu_request": "gpus"},
        {"CpusPerTres": "gres:gpu:2", "MemPerTres": "gres:gpu:1024", "TresPerJob": "gres:gpu:2"},
    ),
    ({"memory_request": "none", "cpu_request": "none", "gpu_request": "none"}, {"NumCPUs": "2"}),
]


def as_in_22_05(value: str | None) -> str | None:
    """Generic resources as Slurm 22.05 writes them; newer ones write ``cpu=2,gres/gpu=1``."""
    return value and re.sub(r"^cpu=\d+,", "", value).replace("gres/", "gres:").replace("=", ":")


def test_every_way_to_request_resources_runs(cluster: VirtualCluster, tmp_path: Path) -> None:
    jobs = {}
    for number, (profile, expected) in enumerate(WAYS):
        line = "echo task $SLURM_PROCID cores $(nproc) $SRUN_CPUS_PER_TASK"
        script = written(tmp_path / str(number), line, {"gpus_per_node": 2}, **profile)
        jobs[submitted(script)] = (number, profile, expected)
    for job, (number, profile, expected) in jobs.items():
        cluster.wait_for(job, "COMPLETED", timeout=120)
        record = cluster.job(job)
        shown = {name: as_in_22_05(record.get(name)) for name in expected}
        assert shown == expected, (profile, record)
        for rank in (0, 1):
            log = tmp_path / str(number) / f"{job}_{rank}_log.out"
            assert f"task {rank} " in log.read_text(), profile


@pytest.mark.parametrize("place", ["profile", "shell"])
def test_export_none_starts_the_task(
    place: str, cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise submitit does not know in the task that it is one of Slurm's."""
    profile: dict[str, Any] = {"environment": {"GIVEN": "yes"}, "gpus": 0}
    monkeypatch.setenv("OF_THE_SHELL", "yes")
    if place == "profile":
        profile["sbatch"] = {"export": "NONE"}
    else:
        monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    line = "echo executor=$SUBMITIT_EXECUTOR given=$GIVEN shell=$OF_THE_SHELL."
    job = submitted(written(tmp_path / "job", line, **profile))
    cluster.wait_for(job, "COMPLETED", timeout=60)
    log = (tmp_path / "job" / f"{job}_0_log.out").read_text()
    assert "executor=slurm given=yes shell=." in log


def test_variables_of_the_shell_do_not_change_the_job(
    cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PARTITION": "high", "TIMELIMIT": "1", "JOB_NAME": "theirs", "MEM_PER_CPU": "100",
        "NO_REQUEUE": "1", "ARRAY_INX": "0-3", "OUTPUT": "/dev/null", "GRES": "gpu:2",
        "CPUS_PER_GPU": "2", "WAIT": "1", "COMMENT": "kept", "CONSTRAINT": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SBATCH_{name}", value)
    job = submitted(written(tmp_path / "job", partition="main", gpu_request="gpus"))
    cluster.wait_for(job, "COMPLETED", timeout=60)
    record = cluster.job(job)
    assert (record["Partition"], record["JobName"]) == ("main", "phase2hpc-request")
    assert (record["TimeLimit"], record["MinMemoryNode"]) == ("00:06:00", "2G")
    assert (record["Requeue"], as_in_22_05(record["TresPerJob"])) == ("1", "gres:gpu:1")
    assert "ArrayJobId" not in record and record["StdOut"].startswith(str(tmp_path))


def test_arrays_dependency_and_requeue(cluster: VirtualCluster, tmp_path: Path) -> None:
    first = written(tmp_path / "a", "sleep 4", dependency="singleton", gpus=0, requeue=False)
    array = replace(first, count=3, array_parallelism=1)
    job = submitted(array)
    then = submitted(replace(first, folder=tmp_path / "b"))
    record = cluster.job(f"{job}_2")
    assert record["ArrayTaskThrottle"] == "1" and record["Requeue"] == "0"
    assert cluster.job(then)["Dependency"].startswith("singleton")
    cluster.wait_for(then, "COMPLETED", timeout=120)
    assert cluster.state(f"{job}_2") == "COMPLETED"
    refuse_large_array(1001)
    with pytest.raises(InputError, match=r"array of 1002 jobs: this cluster has arrays of 1001"):
        refuse_large_array(1002)


def test_a_job_and_an_element_that_exit_with_75_are_requeued(
    cluster: VirtualCluster, tmp_path: Path
) -> None:
    line = "exit $((PHASE2HPC_RESTARTS ? 0 : 75))"
    one = submitted(written(tmp_path / "one", line, gpus=0))
    array = submitted(replace(written(tmp_path / "array", line, gpus=0), count=2))
    for job in (one, f"{array}_0", f"{array}_1"):
        cluster.wait_for(job, "COMPLETED", timeout=90, restarts=1)


def test_a_requeue_that_slurm_refuses_ends_soon(cluster: VirtualCluster, tmp_path: Path) -> None:
    """As where a job may not be requeued: no 85 seconds of tries."""
    script = written(tmp_path / "job", "exit 75", gpus=0)
    text = script.text().replace("#SBATCH --requeue\n", "#SBATCH --no-requeue\n")
    script.folder.mkdir()
    (script.folder / "job.sh").write_text(text)
    job = sbatch(script.folder / "job.sh")
    cluster.wait_for(job, "FAILED", timeout=40)
    log = (script.folder / f"{job}_0_log.err").read_text()
    assert f"job {job} is not requeued (Slurm refuses, see above): its state is saved" in log
    assert cluster.job(job)["ExitCode"] == "75:0"
