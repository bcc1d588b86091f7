"""``runs prune`` takes what only takes room, shows it first, and nothing that anybody needs."""

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.runs import prune
from phase2hpc.runs.lease import Lease
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.prune import MAX_SILENT_SECONDS, format_size, remove
from phase2hpc.runs.run_directory import create_run

SIZE = 100_000
FAMILY = "multitask_lite_e3nn"
KEPT = {"best.pt", "best_4.pt", "checkpoint.pt", "checkpoint_9.pt.newer-version", "manifest.json"}
DEAD = {"pid": 1, "process_start": "another boot"}


def plan(models, failed=False):
    return prune.plan(models, SlurmScheduler(), failed)


@pytest.fixture
def make(tmp_path):
    """``make(id, state, **manifest)``: a run with checkpoints, best weights and leftovers."""

    def run(run_id, state, **said):
        made = create_run(tmp_path, FAMILY, run_id)
        manifest = Manifest(run_id=run_id, algorithm="e3nn", level="lite", properties=["band_gap"],
                            epochs=9, seed=0, state=state, **said)  # fmt: skip
        made.write_manifest(manifest)
        for name in (*KEPT - {"manifest.json"}, "checkpoint_5.pt", "checkpoint_12.pt",
                     "checkpoint_3.pt.damaged", "checkpoint.pt.damaged-2"):  # fmt: skip
            (made.path / name).write_bytes(os.urandom(SIZE))
        return made

    return run


def names(run):
    return {path.name for path in run.path.iterdir()}


def as_if_old(path, seconds=2 * MAX_SILENT_SECONDS):
    then = time.time() - seconds
    os.utime(path, (then, then))


def taken(models, failed=False):
    return {
        (leftover.run.id, leftover.what): len(leftover.paths)
        for leftover in plan(models, failed).leftovers
        if leftover.run
    }


def test_what_is_taken_of_a_run(make, tmp_path):
    done, stopped = make("done", "finished"), make("stopped", "stopped")
    found = plan(tmp_path)
    freed, problems = remove(found)
    assert (freed, problems) == (found.size, [])
    assert found.size == 7 * SIZE
    assert names(done) == KEPT
    # The state before the newest, should that not be readable.
    assert names(stopped) == KEPT | {"checkpoint_12.pt"}
    assert plan(tmp_path).leftovers == ()


def test_where_the_newest_is_missing_the_next_takes_its_place(make, tmp_path):
    done, stopped = make("done", "finished"), make("stopped", "stopped")
    for run in (done, stopped):
        run.checkpoint.unlink()
    remove(plan(tmp_path))
    assert {"checkpoint_12.pt"} == names(done) - KEPT
    assert {"checkpoint_12.pt", "checkpoint_5.pt"} == names(stopped) - KEPT


def test_only_damaged_states_stay_since_they_tell_that_there_was_one(make, tmp_path):
    run = make("stopped", "stopped")
    for path in (run.checkpoint, *(path for _, path in run.older_checkpoints())):
        path.unlink()
    assert taken(tmp_path) == {}


def test_failed_runs_go_only_when_asked_for(make, tmp_path):
    make("failed", "failed", epoch=3)
    make("killed", "running", **DEAD)
    make("stopped", "stopped")
    assert {what for _, what in taken(tmp_path)} == {"old checkpoints", "damaged checkpoints"}
    whole = {key for key in taken(tmp_path, failed=True) if key[1].startswith("the whole")}
    assert whole == {
        ("failed", "the whole run (3 of 9 epochs)"),
        ("killed", "the whole run (0 of 9 epochs)"),
    }
    freed, problems = remove(plan(tmp_path, failed=True))
    assert freed > 14 * SIZE and problems == []
    assert [path.name for path in (tmp_path / FAMILY).iterdir()] == ["run_stopped"]


def test_a_run_that_is_held_is_left_alone(make, tmp_path):
    run = make("held", "failed")
    with Lease.acquire(run):
        found = plan(tmp_path, failed=True)
        assert found.leftovers == ()
        assert "run held: held by process" in found.kept[0]
    assert taken(tmp_path, failed=True)


def test_a_run_that_is_taken_up_after_the_question_is_left_alone(make, tmp_path):
    run = make("failed", "failed")
    found = plan(tmp_path, failed=True)
    before = names(run)
    with Lease.acquire(run):
        freed, problems = remove(found)
    assert freed == 0 and "held by process" in problems[0] and "since then" in problems[0]
    assert names(run) == before


def test_a_run_that_is_submitted_again_after_the_question_is_left_alone(make, tmp_path):
    run = make("failed", "failed")
    found = plan(tmp_path, failed=True)
    run.update_manifest(state="submitted", job_ids=["7"])
    freed, problems = remove(found)
    assert (freed, problems) == (0, ["run failed: changed since then, kept"])
    assert run.checkpoint.exists()


@pytest.mark.parametrize(
    ("state", "said", "why"),
    [
        ("submitted", {}, "waits for its turn in process"),
        ("running", {"host": "elsewhere"}, "recorded as running on elsewhere"),
    ],
)
def test_what_may_be_running_is_left_alone(make, tmp_path, state, said, why):
    make("busy", state, **said)
    found = plan(tmp_path, failed=True)
    assert found.leftovers == () and why in found.kept[0]


def test_a_run_of_another_host_that_is_silent_for_a_day_is_dead(make, tmp_path):
    then = datetime.now(UTC) - timedelta(seconds=2 * MAX_SILENT_SECONDS)
    make("lost", "running", host="elsewhere", updated=then)
    assert ("lost", "the whole run (0 of 9 epochs)") in taken(tmp_path, failed=True)


def test_a_lease_of_a_lost_node_holds_for_a_day(make, tmp_path):
    run = make("lost", "failed")
    run.lease.mkdir()
    record = run.lease / "0123.json"
    record.write_text("damaged")
    assert plan(tmp_path, failed=True).leftovers == ()
    as_if_old(record)
    assert taken(tmp_path, failed=True)


@pytest.fixture
def squeue(tmp_path_factory, monkeypatch):
    """``squeue(lines, code)`` is all of Slurm on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(folder))

    def put(text, code=0):
        for name in ("sbatch", "squeue"):
            script = folder / name
            script.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
            script.chmod(script.stat().st_mode | stat.S_IXUSR)

    return put


def test_a_run_whose_job_waits_to_go_on_is_left_alone(make, tmp_path, squeue):
    make("requeued", "running", job_ids=["7", "8_1"], **DEAD)
    squeue("8_1|PENDING|0|1|0:00|10:00|N/A||BeginTime|")
    found = plan(tmp_path, failed=True)
    assert found.leftovers == () and found.kept == ("run requeued: job 8_1 is PENDING",)
    squeue("8_1|NODE_FAIL|0|1|0:00|10:00|N/A||NodeDown|")
    assert ("requeued", "the whole run (0 of 9 epochs)") in taken(tmp_path, failed=True)


def test_where_slurm_does_not_answer_runs_of_jobs_stay(make, tmp_path, squeue):
    make("failed", "failed", job_ids=["7"], host="node7")
    found = plan(tmp_path, failed=True)
    assert found.leftovers == () and "no Slurm on this machine" in found.kept[0]
    squeue("", code=1)
    found = plan(tmp_path, failed=True)
    assert found.leftovers == () and "prune where the scheduler answers" in found.kept[0]


def test_jobs_that_ran_without_slurm_are_none_of_its(make, tmp_path, squeue):
    make("failed", "failed", job_ids=["local-0123abcd"])
    assert ("failed", "the whole run (0 of 9 epochs)") in taken(tmp_path, failed=True)


def test_leftovers_of_writers_and_of_a_prune_that_was_killed(make, tmp_path):
    run = make("done", "finished")
    remove(plan(tmp_path))
    old = run.path / ".checkpoint.pt.elsewhere.0123456789ab.partial"
    new = run.path / ".best.pt.elsewhere.0123456789ab.partial"
    for path in (old, new):
        path.write_bytes(bytes(SIZE))
    as_if_old(old)
    half = tmp_path / FAMILY / ".pruned-x-012345"
    half.mkdir()
    (half / "best.pt").write_bytes(os.urandom(SIZE))
    found = plan(tmp_path)
    assert [leftover.paths for leftover in found.leftovers] == [(old,), (half,)]
    remove(found)
    assert new.exists() and not old.exists() and not half.exists()


def test_a_second_name_of_the_newest_frees_nothing(make, tmp_path):
    run = make("done", "finished")
    remove(plan(tmp_path))
    os.link(run.checkpoint, run.checkpoint_of(20))
    found = plan(tmp_path)
    assert [leftover.size for leftover in found.leftovers] == [0]


def test_what_cannot_be_read_or_is_elsewhere_is_not_touched(make, tmp_path):
    outside = tmp_path / "outside"
    make("failed", "failed").path.rename(outside)
    (tmp_path / FAMILY / "run_failed").symlink_to(outside)
    create_run(tmp_path, FAMILY, "empty")
    found = plan(tmp_path, failed=True)
    assert {leftover.what for leftover in found.leftovers} == {
        "old checkpoints", "damaged checkpoints",
    }  # fmt: skip
    assert "run empty: " in found.kept[0]


def test_what_cannot_be_removed_is_said_and_the_rest_goes(make, tmp_path, monkeypatch):
    run = make("done", "finished")
    real = Path.unlink

    def unlink(path, missing_ok=False):
        if path.name == "checkpoint_5.pt":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    freed, problems = remove(plan(tmp_path))
    assert len(problems) == 1 and "checkpoint_5.pt: cannot be removed (Permission" in problems[0]
    assert names(run) == KEPT | {"checkpoint_5.pt"} and freed == 3 * SIZE


def test_the_command_shows_asks_and_removes(make, tmp_path, command):
    run = make("done", "finished")
    arguments = ("runs", "prune", "--models-dir", tmp_path)
    before = names(run)
    code, out, err = command(*arguments, "--dry-run")
    assert (code, err) == (0, "")
    assert "done  finished  old checkpoints           2" in out and "total" in out
    code, _, err = command(*arguments)
    assert code == 2 and "no terminal for a confirmation; give --yes" in err
    assert names(run) == before
    code, out, _ = command(*arguments, "--yes")
    assert code == 0 and "freed 391 KiB" in out
    assert names(run) == KEPT
    code, out, _ = command(*arguments)
    assert (code, out) == (0, f"nothing to remove in {tmp_path}\n")


@pytest.mark.parametrize("answer", ["y", "n"])
def test_an_answer_on_a_terminal(make, tmp_path, command, monkeypatch, answer):
    run = make("done", "finished")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question: answer == "y")
    code, out, _ = command("runs", "prune", "--models-dir", tmp_path)
    assert code == 0 and ("nothing is removed" in out) == (answer == "n")
    assert (names(run) == KEPT) == (answer == "y")


def test_a_trained_run_still_predicts(train_tiny, tmp_path):
    from phase2hpc.inference.predictor import load_predictor

    run = train_tiny(tmp_path, keep_checkpoints=3, checkpoint_steps=2)
    assert len(run.older_checkpoints()) == 2
    remove(plan(tmp_path))
    assert run.older_checkpoints() == []
    assert load_predictor([run], "cpu", 1).properties


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1024, "1 KiB"), (3 << 29, "1.5 GiB")]
)
def test_sizes(size, text):
    assert format_size(size) == text


def test_results_of_an_ensemble_go_with_its_last_run(make, tmp_path):
    for name, state in (("a-s0", "finished"), ("b-s0", "failed")):
        make(name, state, ensemble=name[0], ensemble_size=2, **DEAD)
    for name in "abc":
        folder = tmp_path / FAMILY / f"ensemble_{name}"
        folder.mkdir()
        (folder / "metrics.json").write_bytes(os.urandom(SIZE))

    def ensembles(failed):
        found = plan(tmp_path, failed).leftovers
        return {path.name for one in found if one.run is None for path in one.paths}

    assert ensembles(False) == {"ensemble_c"}
    assert ensembles(True) == {"ensemble_b", "ensemble_c"}
    assert "results of ensemble c, whose runs are gone" in plan(tmp_path).text()
    chosen = plan(tmp_path, True)
    # Another seed is submitted since the plan was made.
    make("b-s1", "submitted", ensemble="b", ensemble_size=2)
    _, problems = remove(chosen)
    assert [line for line in problems if "ensemble_b: a run of the ensemble is still there" in line]
    left = {path.name for path in (tmp_path / FAMILY).glob("ensemble_*")}
    assert left == {"ensemble_a", "ensemble_b"}
