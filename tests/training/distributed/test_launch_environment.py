"""Rank, world size and address from the environment of torchrun, srun and mpiexec."""

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


def open_mpi(rank: int, size: int, local_size: int) -> dict[str, str]:
    """As Open MPI 4.1 sets it."""
    return {
        "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank % local_size),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(local_size),
        "PMIX_RANK": str(rank), "PMIX_NAMESPACE": "1592721409",
    }  # fmt: skip


def hydra(rank: int, size: int, local_size: int) -> dict[str, str]:
    """As MPICH 4.0 sets it."""
    return {
        "PMI_RANK": str(rank), "PMI_SIZE": str(size), "PMI_FD": "8",
        "MPI_LOCALRANKID": str(rank % local_size), "MPI_LOCALNRANKS": str(local_size),
    }  # fmt: skip


def pals(rank: int, size: int, local_size: int) -> dict[str, str]:
    """As Cray's documentation of PALS says."""
    return {
        "PMI_RANK": str(rank), "PMI_SIZE": str(size), "PMI_LOCAL_RANK": str(rank % local_size),
        "PMI_LOCAL_SIZE": str(local_size), "PALS_APID": "ab12",
    }  # fmt: skip


@pytest.mark.parametrize("mpiexec", [open_mpi, hydra, pals])
def test_mpiexec(mpiexec, tmp_path) -> None:
    launch = launch_environment(mpiexec(1, 2, 2))
    assert launch is not None
    assert (launch.rank, launch.size, launch.local_rank, launch.address) == (1, 2, 1, "127.0.0.1")
    assert launch_environment(mpiexec(0, 1, 1)) is None
    several = mpiexec(3, 4, 2)
    with pytest.raises(InputError, match="MASTER_ADDR"):
        launch_environment(several)
    hosts = tmp_path / "hosts"
    hosts.write_text("c7.example.org 2 all.q@c7 UNDEFINED\nc8 2\n")
    for given, address in (
        ({"MASTER_ADDR": "c9"}, "c9"),
        ({"PBS_NODEFILE": str(hosts)}, "c7.example.org"),
        ({"PE_HOSTFILE": str(hosts)}, "c7.example.org"),
        ({"SLURM_JOB_NODELIST": "m[2-3]"}, "m2"),
    ):
        launch = launch_environment(several | given)
        assert launch is not None and launch.address == address
        assert (launch.rank, launch.size, launch.local_rank) == (3, 4, 1)
    with pytest.raises(InputError, match=f"PBS_NODEFILE={tmp_path}/none: cannot be read"):
        launch_environment(several | {"PBS_NODEFILE": f"{tmp_path}/none"})


@pytest.mark.parametrize("mpiexec", [open_mpi, hydra])
def test_mpiexec_inside_of_a_step(mpiexec) -> None:
    """Its daemons are a step of their own, with one task a node."""
    launch = launch_environment(srun(0, 1, 77) | mpiexec(1, 2, 2))
    assert launch is not None and (launch.rank, launch.size) == (1, 2)
    launch = launch_environment(mpiexec(1, 2, 2) | torchrun(3, 4, 29500))
    assert launch is not None and (launch.rank, launch.size) == (3, 4)


def test_a_step_with_pmi_is_srun() -> None:
    """srun --mpi=pmi2 or pmix sets these beside its own."""
    launch = launch_environment(STEP | {"PMI_RANK": "1", "PMI_SIZE": "2", "PMIX_RANK": "1"})
    assert launch == launch_environment(STEP)


@pytest.mark.parametrize("name", ["PMIX_RANK", "PMI_RANK"])
def test_a_rank_without_a_number_of_processes_is_refused(name) -> None:
    """Each would train alone."""
    with pytest.raises(InputError, match=f"{name}=1: .*WORLD_SIZE"):
        launch_environment({name: "1"})


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
