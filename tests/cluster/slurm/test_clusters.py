"""One cluster for all of Slurm's commands, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.slurm.clusters import chosen_cluster
from phase2hpc.cluster.slurm.command import run_slurm
from phase2hpc.cluster.submit.sbatch_options import with_options
from phase2hpc.cluster.submit.slurm_executor import sbatch
from phase2hpc.errors import InputError


@pytest.fixture(autouse=True)
def of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def test_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_cluster() == ""
    monkeypatch.setenv("SLURM_CLUSTERS", "east")
    monkeypatch.setenv("SBATCH_CLUSTERS", "east")
    assert chosen_cluster() == "east"


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_CLUSTERS", "east,west"), ("SLURM_CLUSTERS", "all"),
                        ("SBATCH_CLUSTERS", "east")],
)  # fmt: skip
def test_what_status_could_not_find_again(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{name}={value}: .*status"):
        chosen_cluster()


@pytest.mark.parametrize("option", ["clusters=east", "cluster=east"])
def test_as_an_option_of_sbatch(option: str) -> None:
    with pytest.raises(InputError, match="environment variable SLURM_CLUSTERS"):
        with_options(Profile(), (option,))


def test_commands_ask_the_cluster_of_the_job(
    slurm_commands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_commands(squeue=("", "", 0))
    for ambient, cluster in ((None, None), ("east", None), ("east", ""), ("east", "west")):
        if ambient:
            monkeypatch.setenv("SLURM_CLUSTERS", ambient)
        run_slurm("squeue", cluster=cluster)
    lines = slurm_commands.environment().splitlines()
    asked = [line for line in lines if line.startswith("SLURM_CLUSTERS")]
    assert asked == ["SLURM_CLUSTERS=east", "SLURM_CLUSTERS=west"]


def test_the_job_does_not_inherit_the_choice(
    slurm_commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its node, scontrol asks the job's own controller."""
    slurm_commands(sbatch=("12;east\n", "", 0))
    monkeypatch.setenv("SLURM_CLUSTERS", "east")
    (tmp_path / "job.sh").write_text("#!/bin/bash\n")
    assert sbatch(tmp_path / "job.sh") == "12"
    assert slurm_commands() == [f"sbatch --parsable --clusters=east {tmp_path}/job.sh"]
    assert "SLURM_CLUSTERS" not in slurm_commands.environment()
