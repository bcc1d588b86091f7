"""``doctor``: every finding is the truth about this machine, and what is not ok says what to do."""

import os
import re
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from recorded_slurm import PARTITIONS, SINFO

from phase2hpc.cluster.doctor import checks, container, environment
from phase2hpc.cluster.doctor import filesystem as doctor_folder
from phase2hpc.cluster.doctor.check import Check, checks_text
from phase2hpc.cluster.doctor.node import node_checks
from phase2hpc.cluster.doctor.shell_variables import shell_variable_checks
from phase2hpc.cluster.doctor.slurm import slurm_checks
from phase2hpc.cluster.profiles.profile import Profile

WOULD_START = "sbatch: Job 9 to start at 2026-11-24T01:50:33 using 1 processors on nodes p1\n"


def by_name(checks):
    return {check.name: check for check in checks}


def executable(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def cluster(slurm_commands):
    """All commands of a small cluster; ``cluster(sbatch=...)`` replaces an answer."""
    slurm_commands(
        sbatch=(WOULD_START, WOULD_START, 0),
        squeue=("", "", 0),
        scancel=("", "", 0),
        srun=("", "", 0),
        sacct=("", "", 0),
        scontrol=(PARTITIONS, "", 0),
        sinfo=(SINFO, "", 0),
    )
    return slurm_commands


def test_this_machine(tmp_path, command):
    code, out, err = command("doctor", "--profile", "local", "--models-dir", tmp_path / "models")
    assert (code, err) == (0, "")
    assert re.search(rf"^ok +python +{re.escape(sys.version.split()[0])} ", out, re.MULTILINE)
    assert re.search(
        r"^ok +packages \[train\] +train, predict, export: .*torch ", out, re.MULTILINE
    )
    assert re.search(r"^ok +torch +\d", out, re.MULTILINE)
    assert "ok    atomic rename" in out
    assert "Slurm" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_an_exit_code(tmp_path, command, slurm_commands, monkeypatch):
    monkeypatch.setattr(checks, "torch_checks", lambda: [])  # seconds, and seen above
    code, out, _ = command("doctor", "--profile", "slurm-cpu", "--models-dir", tmp_path)
    assert code == 1
    assert re.search(
        r"^fail  Slurm +no Slurm here\n +-> submit from a login node", out, re.MULTILINE
    )


def test_without_a_profile_those_that_are_found_are_listed(
    tmp_path, command, slurm_commands, monkeypatch
):
    monkeypatch.setattr(checks, "torch_checks", lambda: [])
    code, out, _ = command("doctor", "--models-dir", tmp_path)
    assert code == 0
    assert re.search(r"^slurm-gpu +\S+/slurm-gpu\.yaml +Slurm, one GPU$", out, re.MULTILINE)


def test_without_a_profile_no_slurm_is_a_warning(slurm_commands):
    (check,) = slurm_checks(None)
    assert (check.status, check.found) == ("warn", "no Slurm here")


def test_a_wrong_profile_is_one_line(tmp_path, command):
    code, out, err = command("doctor", "--profile", "nope")
    assert (code, out) == (2, "")
    assert err.startswith("phase2hpc: unknown profile 'nope'")


def test_packages_missing_and_too_old(monkeypatch):
    wanted = {"": ["pydantic>=999"], "data": ["numpy>=1", "no-such-thing"], "train": []}
    monkeypatch.setattr(
        environment, "requirements", lambda extra: tuple(map(Requirement, wanted[extra]))
    )
    base, data, train = environment.package_checks()
    assert base.status == "fail" and "(needs >=999)" in base.found
    assert (data.status, data.found) == ("warn", "missing: no-such-thing")
    assert data.advice.endswith("pip install 'phase2hpc[data]'")
    assert train.status == "ok"


@pytest.mark.parametrize(
    ("answer", "status", "found"),
    [
        ("echo 'ImportError: libcudart.so' >&2; exit 1", "fail", "ImportError: libcudart.so"),
        ("exec /bin/sleep 60", "warn", "not imported within 0.5 s"),
        ("kill -SEGV $$", "fail", "exit code -11"),
    ],
)
def test_a_broken_torch_does_not_break_the_doctor(tmp_path, monkeypatch, answer, status, found):
    executable(tmp_path, "python", answer)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(environment, "TORCH_TIMEOUT_SECONDS", 0.5)
    (check,) = environment.torch_checks()
    assert (check.name, check.status) == ("torch", status) and found in check.found


@pytest.mark.parametrize(
    ("cuda", "devices", "status", "found"),
    [
        ("null", "[]", "warn", "this torch is for CPU only"),
        ('"12.8"', "[]", "fail", "torch cannot use them"),
        ('"12.8"', '["A100, 80 GiB"]', "ok", "A100, 80 GiB"),
    ],
)
def test_gpus_that_are_there(tmp_path, monkeypatch, cuda, devices, status, found):
    answer = f'{{"version": "2.9.0", "cuda": {cuda}, "devices": {devices}}}'
    executable(tmp_path, "python", f"echo '{answer}'")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(environment, "gpu_count", lambda: 1)
    checks = by_name(environment.torch_checks())
    assert checks["GPUs"].status == status and found in checks["GPUs"].found


def test_container_runtimes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (check,) = container.container_checks(None)
    assert check.status == "ok" and "needed only" in check.found
    executable(tmp_path / "bin", "apptainer", "echo apptainer version 1.4.5-2")
    executable(tmp_path / "bin", "docker", "echo broken >&2; exit 1")
    (check,) = container.container_checks(None)
    assert check.found == "apptainer 1.4.5"
    image = tmp_path / "phase2hpc.sif"
    profile = Profile(container={"image": str(image)})
    runtime, missing = container.container_checks(profile)
    assert (runtime.status, missing.status) == ("ok", "fail")
    image.write_bytes(b"x")
    assert container.container_checks(profile)[1].status == "ok"
    profile = Profile(container={"image": str(image), "runtime": "singularity"})
    assert container.container_checks(profile)[0].status == "fail"
    profile = Profile(
        container={"image": "docker://x", "runtime": "singularity"}, setup=["module load s"]
    )
    (check,) = container.container_checks(profile)
    assert check.status == "warn"


def test_a_good_folder(tmp_path):
    checks = by_name(doctor_folder.folder_checks(tmp_path / "not" / "yet"))
    assert str(tmp_path) in checks["folder"].found
    for name in ("atomic rename", "exclusive names", "locks", "clock"):
        assert checks[name].status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written():
    (check,) = doctor_folder.folder_checks(Path("/proc/1"))
    assert check.status == "fail" and "cannot be written" in check.found


def test_locks_that_nobody_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_folder.fcntl, "flock", lambda file, kind: None)
    check = by_name(doctor_folder.folder_checks(tmp_path))["locks"]
    assert (check.status, check.found) == ("warn", "flock: not seen by another process")


def test_no_hard_links(tmp_path, monkeypatch):
    def link(first, second):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert by_name(doctor_folder.folder_checks(tmp_path))["exclusive names"].status == "warn"


def test_a_clock_that_is_wrong(tmp_path, monkeypatch):
    now = time.time
    for ahead, status in ((10, "warn"), (-100, "fail")):
        monkeypatch.setattr(time, "time", lambda ahead=ahead: now() + ahead)
        assert by_name(doctor_folder.folder_checks(tmp_path))["clock"].status == status


@pytest.mark.parametrize(("free", "status"), [(0.5, "fail"), (5, "warn"), (50, "ok")])
def test_room(tmp_path, monkeypatch, free, status):
    real = os.statvfs(tmp_path)
    values = list(real)
    values[0:2], values[4] = [1 << 20, 1 << 20], int(free * 1024)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
    assert by_name(doctor_folder.folder_checks(tmp_path))["free space"].status == status


def test_a_profile_that_fits(cluster):
    profile = Profile(
        partition="batch", gpus=2, gpu_type="a100", cpus=2, memory_gb=8, max_hours=1, account="chem"
    )
    checks = slurm_checks(profile)
    assert {check.status for check in checks} == {"ok"}
    found = by_name(checks)
    assert found["trial job"].found.startswith("would start at 2026-11-24T01:50:33")
    trial = next(call for call in cluster() if call.startswith("sbatch --test-only"))
    for option in ("--partition=batch", "--gres=gpu:a100:2", "--cpus-per-task=2", "--mem=8G",
                   "--account=chem", "--requeue"):  # fmt: skip
        assert f" {option} " in trial
    assert "signal-delay" not in trial and "srun" not in trial


def test_variables_of_the_shell_that_sbatch_reads(monkeypatch):
    """Those that the profile's jobs would not be given, and those that they would."""
    assert shell_variable_checks(Profile()) == []
    monkeypatch.setenv("SBATCH_QOS", "high")
    (check,) = shell_variable_checks(None)
    assert (check.status, check.found) == (
        "ok",
        "passed to sbatch from this shell: SBATCH_QOS=high",
    )
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "1G")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "0-3")
    monkeypatch.setenv("SBATCH_OUTPUT", "x.log")
    monkeypatch.setenv("SBATCH_SIGNAL", "USR1@9")
    (check,) = shell_variable_checks(Profile(qos="low"))
    assert (check.status, check.found) == (
        "warn",
        "not passed to sbatch, since the script decides: SBATCH_ARRAY_INX=0-3 "
        "SBATCH_MEM_PER_CPU=1G SBATCH_OUTPUT=x.log SBATCH_QOS=high SBATCH_SIGNAL=USR1@9",
    )
    (check,) = shell_variable_checks(Profile(memory_request="none"))
    assert check.found.endswith("from this shell: SBATCH_MEM_PER_CPU=1G SBATCH_QOS=high")


@pytest.mark.parametrize("fields", [{}, {"hours": 2}])
def test_the_trial_job_asks_for_what_submit_would(cluster, fields):
    """The partition's limit holds for a profile without max_hours."""
    short = PARTITIONS.replace("MaxTime=01:00:00", "MaxTime=00:10:00", 1)
    cluster(scontrol=(short, "", 0))
    assert by_name(slurm_checks(Profile(**fields)))["trial job"].status == "ok"
    (trial,) = [call for call in cluster() if "--test-only" in call]
    assert " --time=10 " in trial


@pytest.mark.parametrize(
    ("fields", "name", "status", "words"),
    [
        ({"partition": "bach"}, "partition", "fail", "did you mean 'batch'"),
        ({"partition": "long"}, "partition long", "warn", "down"),
        ({"max_hours": 24}, "max_hours", "fail", "set 'max_hours' to 1:00:00 at most"),
        ({"hours": 2}, "hours", "warn", "jobs ask for 1:00:00, and a longer run continues"),
        ({"nodes": 4}, "nodes", "fail", "set 'nodes' to 3 at most"),
        ({"partition": "long", "nodes": 2}, "nodes", "fail", "set 'nodes' to 1 at most"),
        ({"cpus": 16}, "cpus", "fail", "set 'cpus' to 8 at most"),
        ({"memory_gb": 64}, "memory_gb", "fail", "set 'memory_gb' to 32 at most"),
        ({"max_memory_gb": 64}, "max_memory_gb", "warn", "set 'max_memory_gb' to 32"),
        ({"gpus": 4}, "gpus", "fail", "set 'gpus' to 3 at most"),
        ({"max_gpus_per_node": 8}, "max_gpus_per_node", "warn", "to 3 at most"),
        ({"gpus": 1, "gpu_type": "h100"}, "gpu_type", "fail", "its types: a100, v100"),
        ({"partition": "long", "account": "x"}, "account", "fail", "accounts that may: bio, chem"),
    ],
)
def test_a_profile_that_does_not_fit(cluster, fields, name, status, words):
    check = by_name(slurm_checks(Profile(**fields)))[name]
    assert check.status == status
    assert words in f"{check.found} {check.advice}"


def test_slurms_own_no_is_shown(cluster):
    cluster(sbatch=("slurm-wlm 22.05.8\n", "allocation failure: Invalid qos specification\n", 0))
    assert by_name(slurm_checks(Profile()))["trial job"].status == "ok"
    cluster(sbatch=("", "allocation failure: Invalid qos specification\n", 1))
    (check,) = slurm_checks(Profile())
    assert check.status == "fail"


def test_a_controller_that_is_down(cluster):
    cluster(sinfo=("", "slurm_load_partitions: Unable to contact slurm controller\n", 1))
    (check,) = slurm_checks(Profile())
    assert check.status == "fail" and "Unable to contact slurm controller" in check.found


@pytest.mark.parametrize(
    ("node", "statuses", "words"),
    [
        ('while [ "$1" != sh ]; do shift; done; echo hello from the prolog; exec "$@"',
         ["ok", "ok", "ok"], "n1 reads what this machine writes"),
        ("echo phase2hpc-doctor: n1 1000.5 nothing",
         ["ok", "fail", "warn"], "n1 does not see"),
        ("echo 'srun: error: Unable to allocate resources: nodes are busy' >&2; exit 1",
         ["fail"], "no job ran: srun: Unable to allocate resources: nodes are busy"),
        ("echo hello", ["fail"], "a job printed 'hello"),
    ],
)  # fmt: skip
def test_on_a_node(tmp_path, monkeypatch, node, statuses, words):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    executable(tmp_path / "bin", "srun", f'echo "$*" > {tmp_path}/call\n{node}')
    checks = node_checks(Profile(partition="batch", srun=["--mpi=none"]), tmp_path / "models")
    assert [check.status for check in checks] == statuses
    assert any(words in check.found for check in checks)
    call = (tmp_path / "call").read_text()
    assert "--partition=batch" in call and "--mpi=none --nodes=1 --ntasks=1 --time=2" in call
    assert "--requeue" not in call
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "call"]


def test_on_a_node_needs_a_profile(command):
    for profile in ((), ("--profile", "local")):
        code, _, err = command("doctor", "--on-node", *profile)
        assert code == 2 and "--on-node: give a Slurm profile" in err


def test_no_accounting_is_a_warning(cluster):
    cluster(sacct=("", "Slurm accounting storage is disabled\n", 1))
    assert by_name(slurm_checks(None))["sacct"].status == "warn"


def test_the_lines_line_up():
    text = checks_text([Check("a", "ok", "fine"), Check("bcd", "fail", "broken", "mend it")])
    assert text.splitlines() == ["ok    a    fine", "fail  bcd  broken", "           -> mend it"]
