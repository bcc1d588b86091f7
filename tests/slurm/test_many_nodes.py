"""A run of two processes, on two nodes or on one: interrupted or not, and whatever starts them, it
ends the same, bit by bit."""

from __future__ import annotations

import functools
import json
import re
import sys
import threading
from pathlib import Path

import pytest
from same_run import assert_same, assert_same_run
from submitted import STEPS_AN_EPOCH, Job, Site, at_once

from phase2hpc.checkpointing.manager import load_newest
from phase2hpc.runs.run_directory import RunDirectory

EPOCHS = 3
TOTAL = EPOCHS * STEPS_AN_EPOCH


@pytest.fixture(scope="module")
def site(slurm, tiny, tmp_path_factory) -> Site:
    return Site(slurm, tiny, tmp_path_factory.mktemp("site"))


def submit(site: Site, name: str, **environment: object) -> Job:
    return site.submit(name, "--nodes", 2, epochs=EPOCHS, **environment)


ONE_AT_A_TIME = threading.Lock()


def undisturbed(site: Site) -> RunDirectory:
    """Submitted on two nodes, and left alone."""
    with ONE_AT_A_TIME:
        return _undisturbed(site)


@functools.cache
def _undisturbed(site: Site) -> RunDirectory:
    job = submit(site, "two_nodes", STEP_SECONDS=0)
    run = job.finished(restarts=0)
    assert site.slurm.job(job.id)["NodeList"] == "n[1-2]"
    assert run.read_manifest().processes == 2
    return run


def stopped_at(job: Job) -> int:
    """The step at which all ranks stopped, which the main one said, once."""
    (step,) = re.findall(rf"^phase2hpc: SIGTERM: state saved at step (\d+) of {TOTAL}$",
                         job.log, re.M)  # fmt: skip
    return int(step)


def steps(folder: Path, life: int, rank: int) -> list[int]:
    return [int(line) for line in (folder / f"{life}-{rank}").read_text().split()]


@at_once
def test_requeued_in_the_middle(site: Site) -> None:
    """Both stop at one step, both go on from it, and one of them writes."""
    taken = site.folder / "steps"
    taken.mkdir()
    job = submit(site, "requeued", STEPS_IN=taken)
    job.wait_for_epoch(1)
    site.slurm.requeue(job.id)
    run = job.finished(restarts=1)
    stop = stopped_at(job)
    assert STEPS_AN_EPOCH <= stop < TOTAL
    for rank in (0, 1):
        assert steps(taken, 0, rank) == [*range(1, stop + 1)]
        assert steps(taken, 1, rank) == [*range(stop + 1, TOTAL + 1)]
    assert_same_run(run, undisturbed(site))
    state = load_newest(run)
    assert state is not None and len(state[0]["rng"]) == 2
    # Of each life one file; and of the main rank alone a word.
    assert len(list(run.tensorboard.iterdir())) == 2
    assert {path.name for path in run.path.iterdir()} == {
        path.name for path in undisturbed(site).path.iterdir()
    }
    others = "".join(path.read_text() for path in job.logs(rank=1)).splitlines()
    assert all(line.startswith("submitit INFO") for line in others), others
    assert job.log.count("results: ") == job.log.count(f"resuming from step {stop} of {TOTAL}") == 1
    assert job.log.count(f"job {job.id} is requeued to continue") <= 1


@at_once
def test_another_number_of_processes_goes_on(site: Site) -> None:
    """What was done stays as it was; what follows is not the same to the last bit, and that is
    said."""
    job = submit(site, "cancelled")
    job.wait_for_epoch(1)
    site.slurm.cancel(job.id)
    site.slurm.wait_for(job.id, "CANCELLED")
    stop, before = stopped_at(job), json.loads(job.run.history.read_text())
    weights = load_newest(job.run)
    said = site.train("cancelled", "--algorithm", "cgcnn", "--level", "lite", "--resume")
    assert "processes 2 -> 1: same weights and crystals, but the result is not identical" in said
    assert f"resuming from step {stop} of {TOTAL}" in said
    manifest = job.manifest
    assert (manifest.state, manifest.processes, manifest.step) == ("finished", 1, TOTAL)
    history = json.loads(job.run.history.read_text())
    assert_same(history[: len(before)], before)
    expected = json.loads(undisturbed(site).history.read_text())
    assert_same(history[: len(before)], expected[: len(before)])
    assert [epoch["step"] for epoch in history] == [epoch["step"] for epoch in expected]
    assert weights is not None and weights[1] == stop


@at_once
def test_plain_srun(site: Site) -> None:
    launcher = ("srun", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=1G")
    assert_trained(site, "srun", launcher)


@at_once
def test_torchrun_on_one_node(site: Site) -> None:
    torchrun = Path(sys.executable).with_name("torchrun")
    launcher = (
        "srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--mem=2G",
        torchrun, "--standalone", "--nproc-per-node=2", "--no-python",
    )  # fmt: skip
    assert_trained(site, "torchrun", launcher)


def assert_trained(site: Site, name: str, launcher: tuple[object, ...]) -> None:
    said = site.train(name, *site.words("cgcnn", epochs=EPOCHS), launcher=launcher)
    assert said.count("results: ") == said.count("epoch 3/3  loss") == 1
    assert site.the_run(name).read_manifest().processes == 2
    assert_same_run(site.the_run(name), undisturbed(site))
