"""The batch script in a real bash with stand-ins for Slurm's commands; what sbatch answers."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.cluster.slurm.command import message_of
from phase2hpc.cluster.submit import slurm_executor
from phase2hpc.cluster.submit.shell_variables import script_options, variable_notes
from phase2hpc.cluster.submit.slurm_executor import BatchExecutor, JobIdUnknown, JobScript, sbatch
from phase2hpc.errors import InputError, Phase2Error


def script(
    folder: Path, python: str = "true", count: int | None = None, **further: Any
) -> JobScript:
    return JobScript(
        folder=folder, python=python, python_name=python, count=count, **further,
        parameters={"time": 5, "wckey": None, "additional_parameters": {"requeue": True}},
    )  # fmt: skip


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run_script(
    tmp_path: Path,
    srun: str,
    scontrol: str,
    *,
    count: int | None = None,
    python: str = "true",
    requeue: bool = True,
    setup: tuple[str, ...] = (),
    teardown: tuple[str, ...] = (),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    bin_ = tmp_path / "bin"
    bin_.mkdir(exist_ok=True)
    executable(bin_ / "srun", srun)
    executable(bin_ / "scontrol", f'echo "scontrol $*" >> {tmp_path}/calls\n{scontrol}')
    executable(bin_ / "sleep", "exit 0")
    file = tmp_path / "job.sh"
    lines = {"setup": setup, "teardown": teardown}
    file.write_text(script(tmp_path / "job", python, count, requeue=requeue, **lines).text())
    return subprocess.run(
        ["/bin/bash", str(file)], capture_output=True, text=True, timeout=30, cwd=tmp_path,
        env={"PATH": f"{bin_}:/usr/bin:/bin", "SLURM_JOB_ID": "41", **variables},
    )  # fmt: skip


RUNNING = 'case "$*" in show*) echo "JobId=41 JobState=RUNNING Reason=None";; esac'


# ---- the script --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [75, 140])
def test_stopped_early_is_requeued(code: int, tmp_path: Path) -> None:
    """By itself, or by a warning in the moment before python took notice of it."""
    ended = run_script(tmp_path, f"exit {code}", RUNNING)
    assert ended.returncode == 0 and "job 41 is requeued" in ended.stdout
    assert (tmp_path / "calls").read_text().splitlines() == [
        "scontrol show job --oneliner 41", "scontrol requeue 41",
    ]  # fmt: skip


def test_of_an_array_the_element_is_requeued(tmp_path: Path) -> None:
    """Its own number may be that of the whole array."""
    ended = run_script(
        tmp_path, "exit 75", RUNNING, count=3, SLURM_ARRAY_JOB_ID="41", SLURM_ARRAY_TASK_ID="0"
    )
    assert ended.returncode == 0
    assert "scontrol requeue 41_0" in (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 137])
def test_any_other_code_is_passed_on(code: int, tmp_path: Path) -> None:
    assert run_script(tmp_path, f"exit {code}", RUNNING).returncode == code
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PREEMPTED", "TIMEOUT"])
def test_a_job_that_slurm_is_ending_is_left_alone(state: str, tmp_path: Path) -> None:
    ended = run_script(tmp_path, "exit 75", f'echo "JobId=41 JobState={state} Reason=None"')
    assert ended.returncode == 75 and state in ended.stderr
    assert "requeue 41" not in (tmp_path / "calls").read_text()


def test_a_refused_requeue_is_tried_once_more_and_then_said(tmp_path: Path) -> None:
    """Slurm answers, and goes on refusing."""
    ended = run_script(
        tmp_path, "exit 75", 'case "$*" in show*) echo "JobId=41 JobState=RUNNING Reason=None";;'
        "*) echo 'disabled' >&2; exit 1;; esac",
    )  # fmt: skip
    assert ended.returncode == 75 and ended.stderr.splitlines()[-1] == (
        "phase2hpc: job 41 is not requeued (Slurm refuses, see above): its state is saved, "
        "continue with phase2hpc submit --resume"
    )
    assert (tmp_path / "calls").read_text().count("requeue 41") == 2


def test_without_an_answer_a_job_is_not_requeued(tmp_path: Path) -> None:
    """It may have been cancelled meanwhile; asked four times, and answered at last."""
    ended = run_script(tmp_path, "exit 75", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert ended.returncode == 75
    assert "(Slurm does not answer whether it still runs)" in ended.stderr.splitlines()[-1]
    assert "submit --resume" in ended.stderr.splitlines()[-1]
    assert (tmp_path / "calls").read_text().splitlines() == ["scontrol show job --oneliner 41"] * 4
    (tmp_path / "calls").unlink()
    late = f'[ "$(/bin/grep -c show {tmp_path}/calls)" -lt 3 ] && exit 1\n{RUNNING}'
    ended = run_script(tmp_path, "exit 75", late)
    assert ended.returncode == 0 and "job 41 is requeued" in ended.stdout


def test_no_program_but_scontrol_is_needed_to_requeue(tmp_path: Path) -> None:
    """After setup lines that leave nothing else on PATH."""
    lines = (f"PATH={tmp_path}/bin",)
    (tmp_path / "bin").mkdir()
    ended = run_script(tmp_path, "exit 75", RUNNING, setup=lines)
    assert ended.returncode == 0 and "job 41 is requeued" in ended.stdout, ended.stderr
    ended = run_script(
        tmp_path, "exit 75", RUNNING, setup=(f"/bin/rm {tmp_path}/bin/scontrol", *lines)
    )
    assert ended.returncode == 75
    assert "(no scontrol on node " in ended.stderr and "submit --resume" in ended.stderr


def test_requeue_false_leaves_the_job(tmp_path: Path) -> None:
    ended = run_script(tmp_path, "exit 75", RUNNING, requeue=False)
    assert ended.returncode == 75 and not (tmp_path / "calls").exists()
    assert "job 41 is not requeued (requeue: false in the profile)" in ended.stderr
    assert run_script(tmp_path, "exit 1", RUNNING, requeue=False).stderr == ""


def test_teardown_runs_after_any_end_and_before_a_requeue(tmp_path: Path) -> None:
    lines = ('echo "down after $code"', "false")
    for code, ended_with in ((0, 0), (9, 9), (75, 0)):
        ended = run_script(tmp_path, f"exit {code}", RUNNING, teardown=lines)
        assert ended.returncode == ended_with
        assert ended.stdout.splitlines()[0] == f"down after {code}"


def test_what_sbatch_was_given_to_export_does_not_reach_the_task(tmp_path: Path) -> None:
    """srun reads it, and would start the task without the variables of this script."""
    ended = run_script(
        tmp_path, 'echo "export=$SLURM_EXPORT_ENV executor=$SUBMITIT_EXECUTOR"', "",
        SLURM_EXPORT_ENV="NONE",
    )  # fmt: skip
    assert "export= executor=slurm" in ended.stdout


def test_the_shell_outlives_sigterm_and_its_children_do_not_ignore_it(tmp_path: Path) -> None:
    """A preempted job gets SIGTERM, all its processes do."""
    srun = "trap 'exit 75' TERM; kill -TERM $PPID $$; exit 9"
    ended = run_script(tmp_path, srun, RUNNING)
    assert ended.returncode == 0, ended
    assert "requeued" in ended.stdout


def test_a_restart_tells_the_task_its_number(tmp_path: Path) -> None:
    srun = 'echo "n=$PHASE2HPC_RESTARTS cpus=$SRUN_CPUS_PER_TASK"'
    assert "n=0 cpus=\n" in run_script(tmp_path, srun, "").stdout
    ended = run_script(tmp_path, srun, "", SLURM_RESTART_COUNT="2", SLURM_CPUS_PER_TASK="6")
    assert "n=2 cpus=6" in ended.stdout
    # srun refuses it beside cores per GPU: the shell that submits may have exported it.
    assert "cpus=\n" in run_script(tmp_path, srun, "", SRUN_CPUS_PER_TASK="3").stdout


def test_a_python_without_what_it_needs_is_said_before_it_starts(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    for python, words in (
        (f"{bare}/bin/python", "lacks phase2hpc packaging pydantic"),
        ("/nowhere/python", "/nowhere/python does not start"),
    ):
        ended = run_script(tmp_path, "echo started", "", python=python)
        assert ended.returncode == 1 and "started" not in ended.stdout
        line = ended.stderr.splitlines()[-1]
        assert line.startswith("phase2hpc: on node ") and words in line and "profile" in line
    assert "started" in run_script(tmp_path, "echo started", "", python=sys.executable).stdout


# ---- sbatch ------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The batch script of a job."""
    file = tmp_path / "job.sh"
    file.write_text(script(tmp_path / "job").text())
    return file


REFUSALS = [
    (
        "sbatch: error: invalid partition specified: nope\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
        "invalid partition specified: nope; Batch job submission failed: Invalid partition name",
        InputError,
    ),
    (
        "sbatch: error: Batch job submission failed: Invalid account or account/partition "
        "combination specified\n",
        "Invalid account or account/partition combination specified",
        InputError,
    ),
    (
        "sbatch: error: Memory specification can not be satisfied\n"
        "sbatch: error: Batch job submission failed: Requested node configuration is not "
        "available\n",
        "Memory specification can not be satisfied",
        InputError,
    ),
    (
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller "
        "(connect failure)\n",
        "Unable to contact slurm controller",
        Phase2Error,
    ),
    ("", "no reason", InputError),
]


@pytest.mark.parametrize(("said", "words", "kind"), REFUSALS)
def test_slurms_own_reason_in_one_line(
    said: str, words: str, kind: type[Exception], slurm_commands: Any, job: Path
) -> None:
    slurm_commands(sbatch=("", said, 1))
    with pytest.raises(kind) as caught:
        sbatch(job)
    assert type(caught.value) is kind
    assert words in str(caught.value) and "\n" not in str(caught.value)


BANNER = """\
-----------------------------------------------------------------
          Welcome to the 2026 Supercomputer, node 7
-----------------------------------------------------------------
No reservation for this job
--> Verifying valid submit host (login4)...OK
--> Checking available allocation (PHY2026)...OK
42 nodes are free
"""


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("78\n", "78"),
        ("78;cluster\n", "78"),
        ("Submitted batch job 78\n", "78"),
        ("Submitted batch job 78 on cluster west\n", "78"),
        (BANNER + "78\n", "78"),
        (BANNER + "Submitted batch job 78\n\n", "78"),
        ("2026\n" + BANNER + "78;west\n", "78"),
        ("78\nhave a nice day\n", "78"),
    ],
)
def test_the_id_among_what_a_site_prints(
    stdout: str, job_id: str, slurm_commands: Any, job: Path
) -> None:
    slurm_commands(sbatch=(stdout, "", 0))
    assert sbatch(job) == job_id


@pytest.mark.parametrize("stdout", ["", BANNER, "job 78 submitted\n", "78a\n", "-78\n"])
def test_without_an_id_a_job_may_be_queued(
    stdout: str, slurm_commands: Any, job: Path, tmp_path: Path
) -> None:
    slurm_commands(sbatch=(stdout, "", 0))
    with pytest.raises(JobIdUnknown, match="printed no job id") as caught:
        sbatch(job)
    assert "squeue --me" in str(caught.value) and f"{tmp_path} is kept" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "stderr",
    [
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received\n",
    ],
)
def test_an_answer_that_is_lost_may_be_that_of_a_queued_job(
    stderr: str, slurm_commands: Any, job: Path
) -> None:
    slurm_commands(sbatch=("", stderr, 1))
    with pytest.raises(JobIdUnknown, match="got no answer from Slurm"):
        sbatch(job)


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_job_that_cannot_be_recorded_is_cancelled(
    cancelled: bool, slurm_commands: Any, tmp_path: Path
) -> None:
    """As with a full quota: sbatch has accepted the job, and its run cannot be written."""
    down = ("", "scancel: error: Unable to contact slurm controller\n", 1)
    slurm_commands(sbatch=("78\n", "", 0), scancel=("", "", 0) if cancelled else down)

    def full(ids: list[str]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError if cancelled else JobIdUnknown, match="No space|queued job 78"):
        BatchExecutor(script(tmp_path / "job")).submit_calls([(print, ())], full)
    assert [call.split()[-1] for call in slurm_commands() if call.startswith("scancel")] == ["78"]


def test_an_sbatch_that_hangs_may_have_queued_a_job(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "sbatch", "exec /bin/sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm_executor, "_SBATCH_TIMEOUT", 0.5)
    with pytest.raises(JobIdUnknown, match="did not answer within"):
        sbatch(job)


def test_without_sbatch(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch on this machine.*--profile local"):
        sbatch(job)


def test_the_job_that_submits_does_not_speak_for_the_job_submitted(
    slurm_commands: Any, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From within a job sbatch would take its cores and memory for wishes."""
    for name, value in (("JOB_ID", "5"), ("CPUS_PER_TASK", "3"), ("CONF", "/etc/x.conf")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    slurm_commands(sbatch=("78;cluster\n", "", 0))
    assert sbatch(job) == "78"
    environment = slurm_commands.environment()
    assert "SLURM_CONF=/etc/x.conf" in environment and "SLURM_CPUS_PER_TASK" not in environment


SHELL = {
    "SBATCH_PARTITION": "mine", "SBATCH_TIMELIMIT": "5", "SBATCH_MEM_PER_CPU": "1G",
    "SBATCH_NO_REQUEUE": "1", "SBATCH_ARRAY_INX": "0-3", "SBATCH_OUTPUT": "x", "SBATCH_WAIT": "1",
    "SBATCH_GRES": "gpu:4", "SBATCH_CPUS_PER_GPU": "3",
    "SBATCH_EXPORT": "NONE", "SBATCH_QOS": "high", "SBATCH_CORE_SPEC": "1",
}  # fmt: skip
KEPT = {"SBATCH_EXPORT", "SBATCH_QOS", "SBATCH_CORE_SPEC"}


def test_variables_of_the_shell_do_not_beat_the_script(
    slurm_commands: Any, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    options = ["partition=p", "mem=2G", "gpus=1", "cpus-per-task=1", "job-name='a b'"]
    lines = "".join(f"#SBATCH --{option}\n" for option in options)
    job.write_text(job.read_text().replace("# Parameters\n", f"# Parameters\n{lines}"))
    slurm_commands(sbatch=("78\n", "", 0))
    assert sbatch(job) == "78"
    passed = dict(line.split("=", 1) for line in slurm_commands.environment().splitlines())
    assert {name for name in passed if name.startswith("SBATCH_")} == KEPT
    dropped, kept = variable_notes(script_options(job.read_text()))
    assert dropped.startswith(
        "not passed to sbatch, since the script decides: SBATCH_ARRAY_INX=0-3"
    )
    assert kept == (
        "passed to sbatch from this shell: SBATCH_CORE_SPEC=1 SBATCH_EXPORT=NONE SBATCH_QOS=high"
    )
    for name in SHELL:
        assert (name in kept) == (name in KEPT) == (name not in dropped)


def test_message_of() -> None:
    assert message_of("sbatch: error: a\nsbatch: error: a\n\nsrun: fatal: b\n") == "a; b"


# ---- submission --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [None, 2])
def test_no_call_can_begin_before_its_run_knows_the_job(
    count: int | None, tmp_path: Path, slurm_commands: Any
) -> None:
    slurm_commands(sbatch=("1234\n", "", 0))
    folder = tmp_path / "job"
    seen: list[tuple[list[str], list[Path]]] = []
    ids = BatchExecutor(script(folder, count=count)).submit_calls(
        [(os.path.join, ("a", str(i))) for i in range(count or 1)],
        lambda ids: seen.append((ids, list(folder.glob("*_submitted.pkl")))),
    )
    assert ids == (["1234"] if count is None else ["1234_0", "1234_1"])
    assert seen == [(ids, [])]
    for i, job_id in enumerate(ids):
        call = pickle.loads((folder / f"{job_id}_submitted.pkl").read_bytes())
        assert call.result() == f"a/{i}"
    names = {path.name for path in folder.iterdir()}
    assert names == {"1234_submission.sh", *(f"{job_id}_submitted.pkl" for job_id in ids)}
    assert (folder / "1234_submission.sh").read_text() == script(folder, count=count).text()
