"""``status`` tells the truth whatever of Slurm, lease and manifest is there. Slurm's texts are
recorded; tests/slurm/test_follow.py has the real one."""

import json

from submitted_jobs import DEAD, FAMILY, GONE, in_queue, lease_elsewhere

from phase2hpc.runs.lease import Lease

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
