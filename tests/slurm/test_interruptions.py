"""However the cluster treats a job, its run ends as one that nobody disturbed, bit by bit.

The tests wait most of the time, so several run at once: see ``at_once``.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from pathlib import Path

import pytest
from same_run import assert_same_run
from submitted import Job, Site, at_once

from phase2hpc.cluster.monitor.scheduler import SlurmScheduler
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.runs.state import status_of


@pytest.fixture(scope="module")
def site(slurm, slurm_that_warns, tiny, tmp_path_factory) -> Site:
    return Site(slurm, tiny, tmp_path_factory.mktemp("site"), slurm_that_warns)


# ---- the cluster takes the node away ---------------------------------------------------------


@at_once
def test_time_limit_of_two_minutes(site: Site) -> None:
    """Slurm looks at the clock every 30 s: the warning comes after 60 to 90 s."""
    job = site.submit("limit", "--time", "00:02:00", algorithm="e3nn", STEP_SECONDS=1.0)
    assert "0:02:00" in job.said
    run = job.finished(restarts=None)
    reason = r"(SIGUSR2|the job's time limit is near)"
    assert re.search(rf"^phase2hpc: {reason}: state saved at step", job.log, re.M)
    # More than once where the machine is slow.
    restarts = int(site.slurm.job(job.id)["Restarts"])
    assert restarts == job.log.count(f"phase2hpc: job {job.id} is requeued") >= 1
    assert job.manifest.restarts == restarts
    assert_same_run(run, site.undisturbed("e3nn"))


@at_once
def test_node_lost(site: Site) -> None:
    """No signal at all: back to the last checkpoint, on the other node."""
    job = site.submit("node_lost", partition="fragile")
    job.wait_for_epoch(2)
    dead = site.slurm.job(job.id)["NodeList"]
    site.slurm.kill_node(dead)
    run = job.finished(restarts=1)
    assert site.slurm.job(job.id)["NodeList"] != dead
    assert "state saved" not in job.log and "resuming from step" in job.log
    assert_same_run(run, site.undisturbed())
    site.slurm.restore_node(dead)


@at_once
def test_preempted_with_a_warning(site: Site) -> None:
    cluster = site.slurm_that_warns
    assert cluster is not None
    job = site.submit("warned", cluster=cluster, partition="grace")
    job.wait_for_epoch(1)
    cluster.sbatch("sleep 1", "--partition=high", "--exclusive", "--nodelist=n4")
    # Slurm 24.11 still has the preemption in mind when the job has requeued itself, and starts it
    # once more after it has finished.
    run = job.finished(restarts=None)
    assert "phase2hpc: SIGUSR2: state saved at step" in job.log
    assert_same_run(run, site.undisturbed())


@at_once
def test_preempted_without_a_warning(site: Site) -> None:
    """Slurm itself requeues: SIGTERM, and the end a few seconds later."""
    job = site.submit("preempted", partition="low")
    job.wait_for_epoch(1)
    site.slurm.sbatch("sleep 1", "--partition=high", "--exclusive", "--nodelist=n3")
    run = job.finished(restarts=1)
    assert "phase2hpc: SIGTERM: state saved at step" in job.log
    assert_same_run(run, site.undisturbed())


# ---- somebody requeues, cancels, kills -------------------------------------------------------


@at_once
def test_requeued_by_hand_and_again_when_finished(site: Site) -> None:
    job = site.submit("by_hand")
    job.wait_for_epoch(1)
    site.slurm.requeue(job.id)
    run = job.finished(restarts=1)
    assert_same_run(run, site.undisturbed())
    before = {path: path.read_bytes() for path in (run.best, run.checkpoint, run.metrics_json)}
    site.slurm.requeue(job.id)
    job.finished(restarts=2)
    assert before == {path: path.read_bytes() for path in before}
    assert "already finished" in job.log


@at_once
def test_one_element_of_an_ensemble(site: Site) -> None:
    job = site.submit("seeds", "--seeds", "0-2", algorithm="cgcnn")
    elements = [
        Job(site.slurm, f"{job.id}_{k}", RunDirectory(Path(f"{job.run.path}-s{k}")), job.said)
        for k in range(3)
    ]
    elements[1].wait_for_epoch(1)
    site.slurm.requeue(elements[1].id)
    for element, restarts in zip(elements, (0, 1, 0), strict=True):
        element.finished(restarts=restarts)
    assert_same_run(elements[0].run, site.undisturbed(seed=0))
    assert_same_run(elements[1].run, site.undisturbed(seed=1))
    manifests = [element.manifest for element in elements]
    assert len({manifest.ensemble for manifest in manifests}) == 1 and manifests[0].ensemble
    assert [manifest.seed for manifest in manifests] == [0, 1, 2]
    assert [manifest.job_ids for manifest in manifests] == [[f"{job.id}_{k}"] for k in range(3)]


@at_once
def test_one_run_of_a_search(site: Site) -> None:
    """It goes on with the settings that it was given, and both tell their scores."""
    pytest.importorskip("optuna")
    space = site.folder / "space.yaml"
    space.write_text("weight_decay: {low: 1e-4, high: 1e-1, log: true}\nclip_norm: [1, 10]\n")
    job = site.submit("search", "--tune", "2", "--space", space, epochs=3)
    first, second = (
        Job(site.slurm, f"{job.id}_{k}", RunDirectory(Path(f"{job.run.path}-t{k}")), job.said)
        for k in range(2)
    )
    first.wait_for_epoch(1)
    chosen = first.manifest.trial
    site.slurm.requeue(first.id)
    run = first.finished(restarts=1)
    second.finished(restarts=0)
    assert chosen is not None and first.manifest.trial == chosen
    given = [word for key, value in chosen.settings.items() for word in ("--set", f"{key}={value}")]
    site.train("as_chosen", *site.words("cgcnn", epochs=3), *given)
    assert_same_run(run, site.the_run("as_chosen"))
    said = site.phase2hpc(site.slurm, "status", "search", "--models-dir", site.models).stdout
    assert "best so far (2 of 2 runs finished): search-t" in said
    journal = (run.path.with_name("array_search") / "study.journal").read_text()
    for manifest in (first.manifest, second.manifest):
        assert f'"values":[{manifest.best_score!r}]' in journal


@at_once
def test_cancelled_and_resumed_by_another_job(site: Site) -> None:
    """A cancelled job saves its state but does not come back."""
    job = site.submit("cancelled")
    job.wait_for_epoch(1)
    site.slurm.cancel(job.id)
    record = site.slurm.wait_for(job.id, "CANCELLED")
    assert record["Restarts"] == "0" and job.manifest.state == "stopped"
    again = site.submit("cancelled", resume=True, STEP_SECONDS=0)
    assert again.id != job.id
    assert_same_run(again.finished(restarts=0), site.undisturbed())
    assert again.manifest.job_ids == [job.id, again.id]


@at_once
def test_killed_and_resumed_by_another_job(site: Site) -> None:
    """The task killed, as by the kernel out of memory: the job has failed."""
    job = site.submit("killed")
    job.wait_for_epoch(1)
    os.kill(job.manifest.pid, signal.SIGKILL)
    record = site.slurm.wait_for(job.id, "FAILED")
    assert record["Restarts"] == "0" and status_of(job.run, SlurmScheduler()).state == "interrupted"
    again = site.submit("killed", resume=True, STEP_SECONDS=0)
    assert_same_run(again.finished(restarts=0), site.undisturbed())
    assert again.manifest.restarts_without_progress == 0


# ---- what must not go on for ever ------------------------------------------------------------


@at_once
def test_hopeless_run_is_given_up(site: Site) -> None:
    """Started again and again, always ended before it could save."""
    job = site.submit("hopeless", STUCK=1)
    for restarts in range(3):
        site.slurm.wait_until(
            lambda restarts=restarts: (
                job.manifest.state == "running" and job.manifest.restarts == restarts
            ),
            f"life {restarts} of {job.run.id} runs", 200, job.id,
        )  # fmt: skip
        site.slurm.requeue(job.id)
    record = site.slurm.wait_for(job.id, "FAILED", timeout=300, restarts=3)
    assert record["ExitCode"] == "1:0"
    assert job.manifest.state == "failed" and "restarted 3 times" in job.manifest.message
    assert job.manifest.message in job.log and "Traceback" not in job.log
    # By hand it may be tried again.
    again = site.submit("hopeless", resume=True, STEP_SECONDS=0)
    assert_same_run(again.finished(restarts=0), site.undisturbed())


@at_once
def test_store_that_is_gone_fails_at_once(site: Site) -> None:
    store = site.folder / "gone.h5"
    store.write_bytes(site.tiny.store.read_bytes())
    first = site.slurm.sbatch("sleep 30")
    job = site.submit("gone", "--after", first, store=store)
    store.unlink()
    record = site.slurm.wait_for(job.id, "FAILED")
    assert (record["ExitCode"], record["Restarts"]) == ("2:0", "0")
    assert re.search(r"^phase2hpc: .*gone\.h5", job.log, re.M) and "Traceback" not in job.log
    assert job.manifest.state == "failed" and "gone.h5" in job.manifest.message


# ---- one job after another -------------------------------------------------------------------


@at_once
def test_store_is_prepared_first_and_a_run_waits_for_another(site: Site) -> None:
    store = site.folder / "made" / "new.h5"
    first = site.submit("first", "--prepare", site.tiny.source, store=store, STEP_SECONDS=0)
    prepare_id = re.search(r"^job (\d+) prepares", first.said, re.M)
    assert prepare_id is not None
    second = site.submit(
        "second", "--after", "first", "--init-from", site.undisturbed().path, STEP_SECONDS=0
    )
    assert_same_run(first.finished(restarts=0), site.undisturbed())
    second.finished(restarts=0)
    ends = [site.slurm.job(job_id) for job_id in (prepare_id[1], first.id, second.id)]
    for earlier, later in itertools.pairwise(ends):
        assert earlier["EndTime"] <= later["StartTime"]


@at_once
def test_what_waits_for_a_failed_job_is_not_left_waiting(site: Site) -> None:
    failing = site.slurm.sbatch("sleep 30; exit 1")
    job = site.submit("never", "--after", failing)
    site.slurm.wait_for(job.id, "CANCELLED")
