"""Why a job ended: by the queue, by accounting, by its log, by its run."""

from datetime import UTC, datetime, timedelta

import pytest
from submitted_jobs import GONE, LIMIT, OOM, in_accounting, in_queue, lease_elsewhere, write_log


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


@pytest.mark.parametrize("state", ["stopped", "finished", "failed"])
def test_what_the_run_itself_says_of_its_end(make, slurm, stands, state):
    run = make("one", state, message="said so")
    slurm(in_queue(run, "COMPLETED"))
    found, _, text = stands("one")
    assert found == state
    assert ("resume  " in text) == (state != "finished")
