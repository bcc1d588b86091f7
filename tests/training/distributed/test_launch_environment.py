"""Rank, world size and address from the environment of torchrun and srun."""

from __future__ import annotations

import pytest
from ranks import srun, torchrun

from phase2hpc.errors import InputError
from phase2hpc.training.distributed.launch_environment import first_node, launch_environment

STEP = srun(1, 2, 77)


def test_torchrun_and_srun() -> None:
    assert launch_environment({}) is None
    launch = launch_environment(torchrun(1, 4, 29500))
    assert launch is not None
    assert (launch.rank, launch.size, launch.local_rank, launch.address) == (1, 4, 1, "127.0.0.1")
    launch = launch_environment(STEP)
    assert launch is not None
    assert (launch.rank, launch.size, launch.local_rank, launch.address) == (1, 2, 1, "127.0.0.1")
    launch = launch_environment(
        STEP | {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "m[2-3]"}
    )
    assert launch is not None and launch.address == "m2"


def test_a_launcher_in_a_step_counts_and_a_batch_script_is_alone() -> None:
    launch = launch_environment(STEP | torchrun(3, 4, 29500))
    assert launch is not None and (launch.rank, launch.size) == (3, 4)
    assert launch_environment(STEP | torchrun(0, 1, 29500)) is None
    script = {name: value for name, value in STEP.items() if "STEP" not in name}
    assert launch_environment(script | {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}) is None
    # The shell of `salloc` may be a step by itself.
    assert launch_environment(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_keys_differ_between_launches() -> None:
    launches = [
        launch_environment(environment)
        for environment in (
            STEP,
            STEP | {"SLURM_STEP_ID": "1"},
            STEP | {"SLURM_RESTART_COUNT": "1"},
            torchrun(0, 2, 29500),
            torchrun(0, 2, 29500) | {"TORCHELASTIC_RESTART_COUNT": "1"},
        )
    ]
    assert len({launch.key for launch in launches if launch is not None}) == 5


@pytest.mark.parametrize(
    "wrong", [{"WORLD_SIZE": "two"}, {"RANK": "-1"}, {"RANK": "2"}, {"LOCAL_RANK": "x"}]
)
def test_a_contradictory_environment_is_refused(wrong) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=name):
        launch_environment(torchrun(0, 2, 29500) | wrong)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("n[03-05,9],m1", "n03"),
        ("gpu-a[003,007-009]b", "gpu-a003b"),
        ("gpu-a[003,007-009]b,c[1-2]", "gpu-a003b"),
        ("rack[1-2]n[04-08],x", "rack1n04"),
        ("node.example.org,n2", "node.example.org"),
    ],
)
def test_first_node(nodes, first) -> None:
    assert first_node(nodes) == first


def test_no_node_is_named() -> None:
    with pytest.raises(InputError, match="MASTER_ADDR"):
        first_node("")
