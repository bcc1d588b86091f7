"""``status``, ``logs`` and ``cancel`` tell the truth whatever of Slurm, lease and manifest is
there. Slurm's texts are recorded; tests/slurm/test_follow.py has the real one."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from phase2hpc.cluster.monitor import follow as following
from phase2hpc.runs.lease import Lease
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import create_run

FAMILY = "multitask_lite_cgcnn"
DEAD = {"pid": 1, "process_start": "another boot"}
GONE = ("", "slurm_load_jobs error: Invalid job id specified\n", 1)
OOM = """\
phase2hpc: WARNING: something
slurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=7.0. Some of your processes may have \
been killed by the cgroup out-of-memory handler.
srun: error: n1: task 0: Out Of Memory
"""
LIMIT = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT {} DUE TO TIME LIMIT ***\n"


@pytest.fixture
def make(tmp_path):
    """``make(id, state, job="7", array=False, **manifest)``: a submitted run and its job's
    folder."""

    def run(run_id, state, job="7", array=False, **said):
        made = create_run(tmp_path, FAMILY, run_id)
        ids = [job] if job else []
        folder = None if not job else "../array_many" if array else "job"
        made.write_manifest(
            Manifest(run_id=run_id, algorithm="cgcnn", level="lite", properties=["band_gap"],
                     epochs=9, seed=0, state=state, job_ids=ids, job_folder=folder, **said)
        )  # fmt: skip
        if folder:
            (made.path / folder).mkdir(exist_ok=True)
            (made.path / folder / f"{job.partition('_')[0]}_submission.sh").touch()
        return made

    return run


@pytest.fixture
def slurm(slurm_commands):
    """``slurm(queue, accounting=None)`` sets what squeue and sacct print; without accounting
    there is no sacct. It returns the calls so far."""

    def put(queue=GONE, accounting=None):
        answers = {"sbatch": ("", "", 0), "scancel": ("", "", 0)}
        answers["squeue"] = queue if isinstance(queue, tuple) else (queue, "", 0)
        if accounting is not None:
            answers["sacct"] = accounting if isinstance(accounting, tuple) else (accounting, "", 0)
        return slurm_commands(**answers)

    put.calls = slurm_commands
    return put


@pytest.fixture
def stands(command, tmp_path):
    """``stands(name)`` -> (state, what is said about it, the whole text)."""

    def look(name):
        code, out, err = command("status", name, "--models-dir", tmp_path)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        state = next(line for line in lines if line.startswith("state")).split()[1]
        return state, lines[lines.index(f"{'state':<{lines[0].index(name)}}{state}") + 1], out

    return look


def in_queue(run, state, job="7", reason="None", code="0", elapsed="1:00", folder=None):
    folder = folder or (run.path / "job").resolve()
    return f"{job}|{state}|{code}|0|{elapsed}|9:00|N/A|n1|{reason}|{folder}/%j_0_log.out|\n"


def in_accounting(run, state, job="7", code="0:0"):
    line = f"sbatch --parsable {(run.path / 'job').resolve()}/.submission_file_ab.sh"
    return f"{job}|{state}|{code}|60|2026-11-24T01:50:29|n1|None|{line}\n"


def lease_elsewhere(run, seconds, job="7", **heartbeat):
    """The lease of a process on another machine that was renewed so long ago."""
    run.lease.mkdir()
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    record = {"token": "t", "host": "n1", "machine": "other", "pid": 5, "job_id": job,
              "expiry": 90.0, "renewed": then.isoformat(), "heartbeat": heartbeat}  # fmt: skip
    file = run.lease / "t.json"
    file.write_text(json.dumps(record))
    os.utime(file, (then.timestamp(), then.timestamp()))


def write_log(run, text, name="7_0_log.err", folder="job"):
    (run.path / folder / name).write_text(text)


# ---- a job lives ---------------------------------------------------------------------------


def test_pending_with_slurms_reason_and_estimate(make, slurm, stands):
    run = make("one", "submitted")
    slurm(in_queue(run, "PENDING", reason="Resources").replace("N/A", "2026-11-25T10:30:00"))
    state, about, _ = stands("one")
    assert state == "pending"
    assert "job 7 PENDING (Resources), starts about 2026-11-25 10:30" in about


def test_a_reason_that_never_passes_comes_with_what_to_change(make, slurm, stands):
    run = make("one", "submitted", submission={"profile": "mine"})
    slurm(in_queue(run, "PENDING", reason="QOSMaxWallDurationPerJobLimit"))
    _, about, text = stands("one")
    assert about.endswith("job 7 PENDING (QOSMaxWallDurationPerJobLimit)")
    assert " to do: ask for less with --time" in text
    slurm(in_queue(run, "PENDING", reason="BadConstraints"))
    assert "phase2hpc doctor --profile mine compares" in stands("one")[2]
    slurm(in_queue(run, "PENDING", reason="Resources"))
    assert "to do" not in stands("one")[2]


def test_running_with_its_heartbeat(make, slurm, stands):
    run = make("one", "running", restarts=2)
    slurm(in_queue(run, "RUNNING"))
    lease_elsewhere(run, 10, phase="training", epoch=3, step=40, total_steps=90, loss=0.25,
                    crystals_per_second=31.4, seconds_left=3700.0)  # fmt: skip
    state, about, text = stands("one")
    assert (state, about.strip()) == ("running", "job 7 on n1, 0:09:00 of its time limit left")
    for words in ("3 of 9 (training)", "40 of 90", "0.2500", "31 crystals/s", "1:01:40 at this",
                  " s ago", "2 by the scheduler"):  # fmt: skip
        assert words in text


def test_starting_silent_requeued_and_stopping(make, slurm, stands):
    run = make("one", "submitted")
    slurm(in_queue(run, "RUNNING"))
    assert stands("one")[0] == "starting"
    slurm(in_queue(run, "RUNNING", elapsed="20:00"))
    assert stands("one")[0] == "unresponsive"
    run.update_manifest(state="running")
    # The sign of life is of the life before.
    lease_elsewhere(run, 400)
    slurm(in_queue(run, "RUNNING", elapsed="1:00"))
    assert stands("one")[0] == "starting"
    slurm(in_queue(run, "RUNNING", elapsed="8:00"))
    state, about, _ = stands("one")
    assert state == "unresponsive" and "no heartbeat for 0:06:40" in about
    slurm(in_queue(run, "PENDING", reason="BeginTime"))
    assert stands("one")[0] == "requeued"
    slurm(in_queue(run, "COMPLETING"))
    assert stands("one")[0] == "stopping"


def test_a_dead_process_on_this_machine_is_not_running(make, slurm, stands):
    run = make("one", "running", **DEAD)
    lease_elsewhere(run, 1)
    file = run.lease / "t.json"
    from phase2hpc.runs.lease_record import machine

    record = json.loads(file.read_text()) | {"machine": machine(), "pid": 999_999}
    file.write_text(json.dumps(record | {"process_start": "gone"}))
    slurm((GONE[0], "slurm_load_jobs error: Unable to contact slurm controller", 1))
    state, _, text = stands("one")
    assert state == "interrupted" and "(process 999999) has exited" in text
    assert "no answer from Slurm: squeue: slurm_load_jobs error" in text


# ---- a job is over -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "code", "log", "expected"),
    [("TIMEOUT", "0", "", "job 7 TIMEOUT"),
     ("NODE_FAIL", "0", "", "job 7 NODE_FAIL (of n1)"),
     ("CANCELLED", "15", "", "job 7 CANCELLED"),
     ("FAILED", "9", "", "job 7 FAILED, killed by SIGKILL"),
     ("FAILED", "48", "", "job 7 FAILED, killed by SIGRTMIN+14"),
     ("FAILED", "4021", "", "job 7 FAILED: node n1 cannot write its log in "),
     ("FAILED", "256", "srun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_GPU are exclusive\n",
      "job 7 FAILED, exit code 1: SLURM_MEM_PER_CPU and SLURM_MEM_PER_GPU are exclusive"),
     ("FAILED", "65280", "FATAL:   could not open image /x.sif: no such file\n",
      "job 7 FAILED, exit code 255: could not open image /x.sif: no such file"),
     ("FAILED", "256", "Traceback\n  x\nKeyError: 'a'\nsrun: error: n1: task 0: Exited\n",
      "job 7 FAILED, exit code 1: KeyError: 'a'"),
     ("FAILED", "256", OOM, "job 7 OUT_OF_MEMORY (FAILED, exit code 1)"),
     ("COMPLETED", "0", "", "job 7 COMPLETED")],
)  # fmt: skip
def test_dead_by_the_queue(make, slurm, stands, state, code, log, expected):
    run = make("one", "running")
    write_log(run, log)
    # Younger than its expiry, and yet its job is over.
    lease_elsewhere(run, 5)
    slurm(in_queue(run, state, code=code))
    found, about, text = stands("one")
    assert found == "interrupted" and about.strip().startswith(expected)
    assert "phase2hpc submit --resume --run-id one --algorithm cgcnn --level lite" in text
    assert all(f"  {line}" in text for line in log.splitlines()[-2:])


def test_dead_without_a_log(make, slurm, stands):
    """The node made the folder anew on a disk of its own."""
    run = make("one", "submitted", submission={"profile": "mine"})
    slurm(in_queue(run, "FAILED", code="512"))
    about = stands("one")[1]
    assert "job 7 FAILED, exit code 2: node n1 has written no log in" in about
    assert "phase2hpc doctor --profile mine --on-node" in about


def test_dead_by_accounting(make, slurm, stands):
    run = make("one", "running")
    slurm(GONE, in_accounting(run, "CANCELLED by 0", code="0:15"))
    assert stands("one")[1].strip() == "job 7 CANCELLED by root"
    slurm(GONE, in_accounting(run, "OUT_OF_MEMORY", code="0:125"))
    assert stands("one")[1].strip() == "job 7 OUT_OF_MEMORY"
    # Records of a job whose end was never told.
    slurm(GONE, in_accounting(run, "RUNNING"))
    assert stands("one")[0] == "interrupted"


@pytest.mark.parametrize("accounting", [None, ("", "Slurm accounting storage is disabled\n", 1)])
def test_dead_by_the_log_alone(make, slurm, stands, accounting):
    run = make("one", "running")
    write_log(run, OOM)
    slurm(GONE, accounting)
    state, about, text = stands("one")
    assert state == "interrupted" and "no record of job 7" in about and "OUT_OF_MEMORY" in about
    assert "task 0: Out Of Memory" in text
    write_log(run, "")
    state, about, _ = stands("one")
    assert state == "interrupted" and about.endswith("its log gives no reason")


def test_what_ended_an_earlier_life_is_not_the_reason(make, slurm, stands):
    now = datetime.now()
    run = make("one", "running", updated=datetime.now(UTC))
    slurm(GONE)
    write_log(run, LIMIT.format((now + timedelta(seconds=5)).isoformat(timespec="seconds")))
    assert "TIMEOUT" in stands("one")[1]
    write_log(run, LIMIT.format((now - timedelta(hours=1)).isoformat(timespec="seconds")))
    assert "gives no reason" in stands("one")[1]


def test_another_job_of_the_same_number(make, slurm, stands, command, tmp_path):
    """Ids begin anew on a cluster that was set up again."""
    run = make("one", "running")
    slurm(in_queue(run, "RUNNING", folder="/home/other/models/family/run_two/job"))
    assert stands("one")[0] == "interrupted"
    code, out, _ = command("cancel", "one", "--yes", "--models-dir", tmp_path)
    assert code == 0 and "no job to cancel" in out
    assert not [call for call in slurm.calls() if call.startswith("scancel")]
    # The same job, its folder seen elsewhere.
    slurm(in_queue(run, "RUNNING", folder=f"/mnt/elsewhere/{FAMILY}/run_one/job"))
    assert stands("one")[0] == "starting"


def test_nobody_can_be_asked(make, slurm, slurm_commands, stands):
    run = make("one", "running")
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    slurm(("", away, 1))
    state, about, _ = stands("one")
    assert state == "unknown" and "Unable to contact" in about
    lease_elsewhere(run, 5)
    assert stands("one")[0] == "running"


@pytest.mark.parametrize("state", ["stopped", "finished", "failed"])
def test_what_the_run_itself_says_of_its_end(make, slurm, stands, state):
    run = make("one", state, message="said so")
    slurm(in_queue(run, "COMPLETED"))
    found, _, text = stands("one")
    assert found == state
    assert ("resume  " in text) == (state != "finished")


# ---- without a job ---------------------------------------------------------------------------


def test_trained_here_and_elsewhere(make, slurm, stands, command, tmp_path):
    slurm("")
    here = make("here", "running", job=None)
    lease = Lease.acquire(here)
    try:
        assert stands("here")[0] == "running"
        code, _, err = command("cancel", "here", "--yes", "--models-dir", tmp_path)
        assert code == 2 and "press Ctrl-C there" in err
    finally:
        lease.release()
    killed = make("killed", "running", job=None, **DEAD)
    assert stands("killed")[0] == "interrupted"
    lease_elsewhere(killed, 1000, job=None)
    state, about, text = stands("killed")
    assert state == "interrupted" and "process 5 on host n1: no heartbeat" in about
    assert "phase2hpc train --resume --run-id killed" in text
    assert not [call for call in slurm.calls() if call.startswith("squeue")]


def test_local_profile(make, slurm, stands):
    slurm("")
    make("waits", "submitted", job="local-ab12_0", array=True)
    make("gone", "submitted", job="local-cd12", **DEAD)
    assert stands("waits")[0] == "pending"
    assert stands("gone")[0] == "interrupted"


# ---- all runs --------------------------------------------------------------------------------


def test_all_runs(make, slurm, command, tmp_path, monkeypatch):
    def look(*more):
        code, out, err = command("status", "--models-dir", tmp_path, *more)
        assert (code, err) == (0, "")
        return out

    slurm("")
    assert look() == f"no runs in {tmp_path}\n"
    for number in range(3):
        make(
            f"old{number}",
            "finished",
            job=str(20 + number),
            created=f"2026-01-0{number + 1}T00:00Z",
        )
    elements = [make(f"many-s{k}", "submitted", job=f"7_{k}", array=True, ensemble="many",
                     ensemble_member=f"seed={k}", ensemble_size=3) for k in range(3)]  # fmt: skip
    array = (elements[0].path / "../array_many").resolve()
    slurm("".join(in_queue(None, "PENDING", f"7_{k}", "Priority", folder=array) for k in range(3)))
    (tmp_path / FAMILY / "run_broken").mkdir()
    lines = look().splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["old0", "old1", "old2", "many", "broken"]
    assert "many (3 runs)  3 pending" in lines[5] and "job 7_0 PENDING (Priority)" in lines[5]
    assert sum("many-s" in line for line in look("--all").splitlines()) == 3
    assert sum("many-s" in line for line in look("many").splitlines()) == 3
    assert sum("many-s" in line for line in look("7").splitlines()) == 3
    assert "many-s1" in look("7_1") and "many-s2" not in look("7_1")
    before = len(slurm.calls())
    look()
    assert len([call for call in slurm.calls()[before:] if call.startswith("squeue")]) == 1
    monkeypatch.setattr("phase2hpc.cluster.monitor.status.MAX_ENDED_RUNS", 2)
    lines = look().splitlines()
    assert lines[0].startswith("3 older runs have ended") and "old2" not in lines[1]
    assert any(line.startswith("many (3 runs)") for line in lines)


def test_a_name_that_means_nothing(make, slurm, command, tmp_path):
    slurm("")
    make("one", "finished")
    for verb in ("status", "logs", "cancel"):
        code, _, err = command(verb, "99", "--models-dir", tmp_path)
        assert code == 2 and err.startswith("phase2hpc: job 99: no run in")
        code, _, err = command(verb, "ome", "--models-dir", tmp_path)
        assert code == 2 and "did you mean 'one'?" in err


def test_the_job_that_prepares_the_store(make, slurm, stands, command, tmp_path):
    run = make("one", "submitted", job="8", store=str(tmp_path / "missing.h5"))
    folder = tmp_path / "prepare_one"
    folder.mkdir()
    (folder / "7_submission.sh").touch()
    (folder / "7_0_log.err").write_text("phase2hpc: a.jsonl: no such file\n")
    waits = in_queue(run, "PENDING", "8", "Dependency")
    slurm(in_queue(run, "RUNNING", "7", folder=folder) + waits)
    assert "waits for job 7, which prepares its store (RUNNING)" in stands("one")[1]
    assert command("cancel", "7", "--yes", "--models-dir", tmp_path)[0] == 0
    assert slurm.calls()[-1] == "scancel 7"
    slurm(in_queue(run, "FAILED", "7", code="512", folder=folder) + in_queue(run, "CANCELLED", "8"))
    why = "its store, FAILED, exit code 2: a.jsonl: no such file"
    state, about, _ = stands("one")
    assert state == "interrupted" and "job 8 CANCELLED" in about and about.endswith(why)
    slurm(GONE)
    assert stands("one")[1].endswith("its log says a.jsonl: no such file")
    assert command("logs", "7", "--err", "--models-dir", tmp_path)[1].startswith("phase2hpc: a.j")


def test_watching_off_a_terminal_tells_changes_and_ends(
    make, slurm, command, tmp_path, monkeypatch
):
    run = make("one", "submitted")
    states = iter(("PENDING", "PENDING", "RUNNING", "FAILED"))

    def sleep(seconds):
        assert seconds >= 10
        slurm(in_queue(run, next(states)))

    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=sleep, strftime=time.strftime))
    sleep(10)
    code, out, _ = command("status", "one", "--watch", "--models-dir", tmp_path)
    assert code == 0
    assert [line.split()[2].rstrip(",") for line in out.splitlines()] == [
        "pending", "starting", "interrupted",
    ]  # fmt: skip


def test_ctrl_c_ends_watching(make, slurm, command, tmp_path, monkeypatch):
    make("one", "submitted")
    slurm("")

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "time", SimpleNamespace(sleep=interrupt, strftime=time.strftime))
    assert command("status", "--watch", "--models-dir", tmp_path)[0] == 0


# ---- logs ------------------------------------------------------------------------------------


def test_logs(make, slurm, command, tmp_path):
    def logs(*words):
        return command("logs", "one", "--models-dir", tmp_path, *words)

    slurm("")
    run = make("one", "stopped")
    code, out, err = logs()
    assert (code, out) == (0, "") and "the log is empty so far" in err
    write_log(run, "first life\nsecond life\nµ\x1b[2J\n", "7_0_log.out")
    write_log(run, "rank 1\n", "7_1_log.out")
    write_log(run, "error\n")
    assert logs()[1] == "first life\nsecond life\nµ\\x1b[2J\n"
    assert logs("-n", "2")[1] == "second life\nµ\\x1b[2J\n"
    assert logs("-n", "0")[1] == ""
    assert logs("-n", "99")[1].startswith("first")
    assert logs("--err")[1] == "error\n"
    assert logs("--rank", "1")[1] == "rank 1\n"
    code, _, err = logs("--rank", "2")
    assert code == 2 and "job 7 has logs of the ranks 0, 1" in err
    assert slurm.calls() == []


def test_logs_of_a_run_without_a_job(make, slurm, command, tmp_path):
    make("one", "finished", job=None)
    code, _, err = command("logs", "one", "--models-dir", tmp_path)
    assert code == 2 and "trained without a job, by process" in err


@pytest.mark.parametrize(
    ("key", "value"), [("job_folder", "../../.."), ("job_folder", "/etc"), ("job_ids", ["../x"])]
)
def test_a_tampered_manifest_leads_nowhere(make, slurm, command, tmp_path, key, value):
    slurm(GONE)
    run = make("one", "running")
    manifest = json.loads(run.manifest.read_text()) | {key: value}
    run.manifest.write_text(json.dumps(manifest))
    code, out, err = command("logs", "one", "--models-dir", tmp_path)
    assert (code, out) == (2, "") and str(run.path.parent) in err
    assert command("status", "one", "--models-dir", tmp_path)[0] == 0


def test_a_log_that_is_a_link_or_a_pipe_is_not_read(make, slurm, command, tmp_path):
    run = make("one", "stopped")
    (run.path / "job" / "7_0_log.out").symlink_to("/etc/passwd")
    os.mkfifo(run.path / "job" / "7_0_log.err")
    for stream in ((), ("--err",)):
        code, out, err = command("logs", "one", "--models-dir", tmp_path, *stream)
        assert (code, out) == (2, "") and "cannot be read" in err


def test_following_across_a_requeue_to_the_end(make, slurm, command, tmp_path, monkeypatch):
    run = make("one", "submitted")
    slurm(in_queue(run, "PENDING"))
    log = run.path / "job" / "7_0_log.out"
    life = [
        ("submitted", "RUNNING", "one\n"),
        ("stopped", "COMPLETING", "half"),
        ("stopped", "PENDING", " a line\n"),
        ("finished", "COMPLETED", "three\n"),
    ]
    now = 0.0

    def sleep(seconds):
        """A state lasts longer than the time between two queries."""
        nonlocal now
        now += seconds
        if life and now % (2 * following.SLURM_SECONDS) == 0:
            state, queue, text = life.pop(0)
            run.update_manifest(state=state)
            slurm(in_queue(run, queue))
            with log.open("a") as file:
                file.write(text)

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: now)
    monkeypatch.setattr(following, "time", clock)
    code, out, err = command("logs", "one", "-f", "--models-dir", tmp_path)
    assert (code, out) == (0, "one\nhalf a line\nthree\n")
    assert "is pending: job 7 PENDING" in err and "is finished" in err
    queries = [call for call in slurm.calls() if call.startswith("squeue")]
    assert len(queries) <= now / following.SLURM_SECONDS + 1


# ---- cancel ----------------------------------------------------------------------------------


def test_cancel_asks(make, slurm, command, tmp_path):
    run = make("one", "running")
    slurm(in_queue(run, "RUNNING"))
    lease_elsewhere(run, 5, epoch=3)
    code, out, err = command("cancel", "one", "--models-dir", tmp_path)
    assert code == 2 and "give --yes" in err
    assert out.splitlines()[2].split()[:4] == ["7", "RUNNING", "one", "3/9"]
    assert "scancel" not in " ".join(slurm.calls())
    code, out, _ = command("cancel", "one", "--yes", "--models-dir", tmp_path)
    assert code == 0 and slurm.calls()[-1] == "scancel 7"
    assert "resume: phase2hpc submit --resume --run-id one" in out


def test_cancel_elements(make, slurm, command, tmp_path):
    runs = [make(f"many-s{k}", "submitted", job=f"7_{k}", array=True, ensemble="many")
            for k in range(3)]  # fmt: skip
    array = (runs[0].path / "../array_many").resolve()
    states = ("RUNNING", "PENDING", "COMPLETED")
    slurm("".join(in_queue(None, s, f"7_{k}", folder=array) for k, s in enumerate(states)))
    for name, expected in (
        ("7_1", "7_1"),
        ("7", "7_0 7_1"),
        ("many", "7_0 7_1"),
        ("many-s0", "7_0"),
    ):
        code, out, _ = command("cancel", name, "--yes", "--models-dir", tmp_path)
        assert (code, slurm.calls()[-1]) == (0, f"scancel {expected}")
    code, out, _ = command("cancel", "7_2", "--yes", "--models-dir", tmp_path)
    assert code == 0 and len(out.splitlines()) == 1 and "no job to cancel, it is interrupted" in out


def test_cancel_where_slurm_is_away(make, slurm, command, tmp_path):
    make("one", "running")
    slurm(("", "slurm_load_jobs error: Unable to contact slurm controller\n", 1))
    code, _, err = command("cancel", "one", "--yes", "--models-dir", tmp_path)
    assert code == 1 and "nothing is cancelled: squeue: slurm_load_jobs error" in err


# ---- jobs that start after others ----------------------------------------------------------


def test_a_dependent_names_what_it_waits_for(make, slurm, stands):
    run = make("two", "submitted", job="8", after=["7", "3"])
    first = make("one", "running")
    lines = in_queue(run, "PENDING", job="8", reason="Dependency")
    slurm(lines + in_queue(first, "RUNNING") + in_queue(first, "PENDING", job="3_0"))
    _, about, _ = stands("two")
    assert about.endswith(
        "job 8 PENDING (Dependency), waits for job 7 (RUNNING), waits for job 3_0 (PENDING)"
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_dependent_whose_parents_run_failed(make, slurm, stands, known):
    """The parent's run tells it where Slurm has forgotten both jobs and keeps no accounting."""
    run = make("two", "submitted", job="8", after=["7"])
    parent = make("one", "failed", message="out of memory on a batch")
    cancelled = in_queue(run, "CANCELLED", job="8", reason="DependencyNeverSatisfied")
    slurm(cancelled + in_queue(parent, "FAILED", code="256") if known else GONE)
    state, about, _ = stands("two")
    assert state == "interrupted"
    assert ("CANCELLED by Slurm" in about) == known
    words = "run one, which it was to start after, is failed (out of memory on a batch)"
    assert about.endswith(words)


def test_a_dependent_of_another_job(make, slurm, stands):
    run = make("two", "submitted", job="8", after=["5"])
    lines = in_queue(run, "CANCELLED", job="8", reason="DependencyNeverSatisfied")
    slurm(lines + in_queue(run, "FAILED", job="5", code="768", folder="/elsewhere"))
    assert stands("two")[1].endswith("job 5, which it was to start after, FAILED, exit code 3")
    slurm(GONE, in_accounting(run, "FAILED", job="5", code="3:0"))
    assert stands("two")[1].endswith("job 5, which it was to start after, FAILED, exit code 3")
    slurm(GONE, "")
    assert stands("two")[1].endswith("job 5, which it was to start after, is not known to Slurm "
                                     "(any more) either")  # fmt: skip


def test_a_dependent_that_somebody_cancelled(make, slurm, stands):
    run = make("two", "submitted", job="8", after=["7"])
    make("one", "finished")
    slurm(GONE, in_accounting(run, "CANCELLED by 0", job="8"))
    assert stands("two")[1].endswith("job 8 CANCELLED by root; before training started")


def test_dependents_that_name_each_other(make, slurm, stands):
    make("one", "submitted", job="7", after=["8"])
    make("two", "submitted", job="8", after=["7"])
    slurm(GONE)
    assert stands("one")[0] == "interrupted"


# ---- several clusters ----------------------------------------------------------------------


def test_each_run_is_looked_up_on_its_own_cluster(make, slurm, command, tmp_path, monkeypatch):
    """Whatever SLURM_CLUSTERS says now."""
    monkeypatch.setenv("SLURM_CLUSTERS", "west")
    run = make("one", "running", cluster="east")
    make("two", "running", job="8")
    slurm()
    # Each cluster has a job of its own with this id.
    script = tmp_path / "bin" / "squeue"
    script.write_text(
        '#!/bin/sh\nif [ "$SLURM_CLUSTERS" = east ]; then\n'
        f"echo '{in_queue(run, 'RUNNING').strip()}'\nelse\n"
        'echo "asked:${SLURM_CLUSTERS-none}" >&2; exit 1\nfi\n'
    )
    code, out, err = command("status", "--json", "--models-dir", tmp_path)
    assert (code, err) == (0, "")
    found = {about["run"]: about for about in json.loads(out)}
    assert found["one"]["state"] == "starting"
    assert found["two"]["state"] == "unknown" and "asked:none" in found["two"]["detail"]
    (tmp_path / "bin" / "scancel").write_text(
        f'#!/bin/sh\necho "$SLURM_CLUSTERS $*" >> {tmp_path}/cancelled\n'
    )
    script.write_text(script.read_text().replace("exit 1", "exit 0"))
    code, out, err = command("cancel", "one", "--yes", "--models-dir", tmp_path)
    assert code == 0 and (tmp_path / "cancelled").read_text() == "east 7\n", err
