"""Jobs that start after others, jobs of the same number, jobs of several clusters."""

import json

import pytest
from submitted_jobs import FAMILY, GONE, in_accounting, in_queue, lease_elsewhere


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
