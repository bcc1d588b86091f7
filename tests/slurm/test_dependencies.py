"""What submit, status and cancel say of jobs that wait for others, never start, or are on one of
several clusters, with the real Slurm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from submitted import Site
from virtual_cluster import VirtualCluster

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def site(slurm: VirtualCluster, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(slurm, tiny, tmp_path_factory.mktemp("site"))


def submit(site: Site, cluster: VirtualCluster, name: str, *words: object, hours: int = 1) -> Done:
    profile = site.folder / f"{name}.yaml"
    profile.write_text(f"partition: main\ncpus: 1\nmemory_gb: 1\nmax_hours: {hours}\n")
    return site.phase2hpc(
        cluster, "submit", *site.words("cgcnn"), "--profile", profile, "--models-dir", site.models,
        "--run-id", name, *words,
    )  # fmt: skip


def status(site: Site, cluster: VirtualCluster, name: str) -> str:
    done = site.phase2hpc(cluster, "status", name, "--models-dir", site.models)
    assert done.returncode == 0, done.stderr
    return done.stdout


def newest_job(site: Site, name: str) -> str:
    return str(site.the_run(name).read_manifest().job_ids[-1])


def test_after_jobs_that_have_ended(site: Site, slurm: VirtualCluster) -> None:
    good, bad = slurm.sbatch("true"), slurm.sbatch("exit 3")
    slurm.wait_for(good, "COMPLETED")
    slurm.wait_for(bad, "FAILED")
    for job, words in ((bad, "ended (FAILED, exit code 3)"), ("987654", "no record of this job")):
        done = submit(site, slurm, "refused", "--after", job)
        assert done.returncode == 2 and f"--after {job}: " in done.stderr and words in done.stderr
    assert not site.the_run("refused").path.exists()
    done = submit(site, slurm, "at_once", "--after", good, "--sbatch", "hold")
    assert done.returncode == 0 and f"--after {good}: has succeeded" in done.stderr, done.stderr
    assert slurm.job(newest_job(site, "at_once"))["Dependency"] == "(null)"
    # A held job is to be released, and status says so.
    text = status(site, slurm, "at_once")
    assert f"to do: it is held: scontrol release {newest_job(site, 'at_once')}" in text
    slurm.cancel(newest_job(site, "at_once"))


def test_after_a_job_that_fails_later(site: Site, slurm: VirtualCluster) -> None:
    first = slurm.sbatch("sleep 300")
    done = submit(site, slurm, "later", "--after", first)
    assert done.returncode == 0, done.stderr
    assert f"waits for job {first} (RUNNING)" in status(site, slurm, "later")
    slurm.cancel(first)
    slurm.wait_for(newest_job(site, "later"), "CANCELLED")
    text = status(site, slurm, "later")
    assert f"job {first}, which it was to start after, CANCELLED" in text


def test_a_node_that_does_not_see_the_folder(site: Site, slurm: VirtualCluster) -> None:
    done = submit(site, slurm, "unseen", "--sbatch", "hold")
    assert done.returncode == 0, done.stderr
    job, away = newest_job(site, "unseen"), site.models.with_name("away")
    site.models.rename(away)
    # Not even root can make the missing folder below a file.
    site.models.touch()
    try:
        slurm.run("scontrol", "release", job)
        slurm.wait_for(job, "FAILED")
    finally:
        site.models.unlink()
        away.rename(site.models)
    text = status(site, slurm, "unseen")
    assert " cannot write its log in " in text and "--on-node checks it" in text


def test_a_limit_that_is_never_satisfied(site: Site, slurm: VirtualCluster) -> None:
    done = submit(site, slurm, "long", "--time", "20:00:00", hours=100)
    assert done.returncode == 0, done.stderr
    slurm.wait_until(
        lambda: "to do: ask for less with --time" in status(site, slurm, "long"), "advice", 60
    )
    slurm.cancel(newest_job(site, "long"))


def test_one_of_several_clusters(
    site: Site, slurm_with_sacct: VirtualCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """slurmdbd knows the cluster by its name."""
    cluster = slurm_with_sacct
    done = submit(site, cluster, "wrong", "--sbatch", "clusters=virtual")
    assert done.returncode == 2 and "SLURM_CLUSTERS" in done.stderr
    monkeypatch.setitem(cluster.environment, "SLURM_CLUSTERS", "virtual,other")
    done = submit(site, cluster, "wrong")
    assert done.returncode == 2 and "SLURM_CLUSTERS=virtual,other: name one" in done.stderr
    assert not site.the_run("wrong").path.exists()
    monkeypatch.setitem(cluster.environment, "SLURM_CLUSTERS", "virtual")
    done = submit(site, cluster, "there", "--sbatch", "hold")
    assert done.returncode == 0, done.stderr
    assert site.the_run("there").read_manifest().cluster == "virtual"
    monkeypatch.delitem(cluster.environment, "SLURM_CLUSTERS")
    assert "PENDING (JobHeldUser)" in status(site, cluster, "there")
    record = cluster.run("scontrol", "show", "job", newest_job(site, "there"))
    assert Path(site.the_run("there").path).name in record
    # Another choice meanwhile does not count, and an unknown cluster is said.
    manifest = site.the_run("there").manifest
    text = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(text) | {"cluster": "other"}))
    assert "cluster other: " in status(site, cluster, "there")
    manifest.write_text(text)
    done = site.phase2hpc(cluster, "cancel", "there", "--yes", "--models-dir", site.models)
    assert done.returncode == 0 and "cancelled" in done.stdout, done.stderr
    cluster.wait_for(newest_job(site, "there"), "CANCELLED")
