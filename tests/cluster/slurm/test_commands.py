"""What Slurm's commands print is read right. The texts are recorded from Slurm 22.05."""

from datetime import datetime

import pytest
from recorded_slurm import PARTITIONS, SINFO

from phase2hpc.cluster.slurm import command as slurm_command
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm import partitions as slurm_cluster
from phase2hpc.cluster.slurm.parsing import expand_array, parse_duration, parse_exit_code
from phase2hpc.errors import InputError, Phase2Error

SQUEUE = """\
2|FAILED|768|0|0:00|10:00|2026-11-24T01:50:29|p1|NonZeroExitCode|
5|FAILED|9|0|0:01|10:00|2026-11-24T01:50:29|p1|JobLaunchFailure|
4_1|PENDING|0|1|0:00|10:00|N/A||JobArrayTaskLimit|
1|RUNNING|0|2|1-02:03:04|9:57|2026-11-24T01:50:29|p[1-2]|None|
9|PENDING|0|0|0:00|UNLIMITED|2026-11-25T00:00:00||ReqNodeNotAvail, UnavailableNodes:p[1-2]|
24|CANCELLED|36608|0|0:01|9:59|2026-11-24T02:06:07|p1|None|
"""
SACCT = """\
2|FAILED|3:0|0|2026-11-24T01:50:29|p1|None
3|PENDING|0:0|0|Unknown|None assigned|PartitionDown
5|FAILED|0:9|0|2026-11-24T01:50:29|p1|None
8|OUT_OF_MEMORY|0:125|61|2026-11-24T01:50:29|p1|None
24|CANCELLED by 0|0:0|1|2026-11-24T02:06:07|p1|None
4_0|RUNNING|0:0|3|2026-11-24T01:50:29|p1|None
4_[1-3,7%1]|PENDING|0:0|0|Unknown|None assigned|JobArrayTaskLimit
"""


def test_the_queue(slurm_commands):
    slurm_commands(squeue=(SQUEUE, "", 0))
    states = slurm.queue_states(["1", "2", "4_1", "5", "9", "24", "77"])
    assert set(states) == {"1", "2", "4_1", "5", "9", "24"}
    assert states["1"] == slurm.JobState(
        state="RUNNING",
        nodes="p[1-2]",
        elapsed=93784,
        time_left=597,
        start=datetime(2026, 11, 24, 1, 50, 29),
        restarts=2,
    )
    assert states["1"].running and not states["1"].over
    assert states["4_1"].waiting and states["4_1"].reason == "JobArrayTaskLimit"
    assert states["4_1"].exit_code is None and states["4_1"].start is None
    assert (states["2"].over, states["2"].exit_code, states["5"].exit_code) == (True, 3, 137)
    assert states["9"].reason == "ReqNodeNotAvail, UnavailableNodes:p[1-2]"
    assert states["9"].time_left is None and states["9"].start == datetime(2026, 11, 25)
    assert states["24"].exit_code == 143


def test_the_cluster_line_of_several_clusters_is_passed_over(slurm_commands):
    slurm_commands(squeue=(f"CLUSTER: one\n{SQUEUE}", "", 0))
    assert "1" in slurm.queue_states(["1"])


def test_ids_go_once_and_only_what_can_be_one(slurm_commands):
    slurm_commands(squeue=("", "", 0))
    assert slurm.queue_states(["abc", "12", "--me", "12", "4_1", ""]) == {}
    (call,) = slurm_commands()
    assert call.endswith("--jobs=12,4_1")


def test_no_ids_no_call(slurm_commands):
    slurm_commands(squeue=("", "", 1), sacct=("", "", 1))
    assert slurm.queue_states([]) == slurm.accounting_states(["local"]) == {}
    assert slurm_commands() == []


def test_many_ids_fit_the_command_line(slurm_commands):
    slurm_commands(squeue=("", "", 0))
    slurm.queue_states([f"{number}" for number in range(10_000_000, 10_002_500)])
    assert len(slurm_commands()) == 3


def test_an_unknown_id_is_no_error(slurm_commands):
    slurm_commands(squeue=("", "slurm_load_jobs error: Invalid job id specified\n", 1))
    assert slurm.queue_states(["999999"]) == {}


def test_an_error_is_one_line_with_slurms_words(slurm_commands):
    away = (
        "squeue: error: slurm_receive_msgs: Socket timed out\n"
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    )
    slurm_commands(squeue=("", away, 1))
    with pytest.raises(
        Phase2Error, match=r"^squeue: slurm_receive_msgs: Socket timed out; slurm_lo"
    ):
        slurm.queue_states(["1"])
    slurm_commands(squeue=("", "", 3))
    with pytest.raises(Phase2Error, match=r"^squeue: failed with exit code 3$"):
        slurm.queue_states(["1"])


def test_an_answer_that_never_comes(slurm_commands, monkeypatch, tmp_path):
    slurm_commands(squeue=("", "", 0))
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(slurm_command, "TIMEOUT_SECONDS", 0.2)
    with pytest.raises(Phase2Error, match="no answer within 0.2 s"):
        slurm.queue_states(["1"])


def test_no_slurm_at_all(slurm_commands):
    assert not slurm.slurm_available()
    assert slurm.accounting_states(["1"]) == {}
    with pytest.raises(Phase2Error, match="no Slurm on this machine"):
        slurm.queue_states(["1"])
    slurm_commands(sbatch=("slurm-wlm 22.05.8\n", "", 0), squeue=("", "", 0))
    assert slurm.slurm_available() and slurm_cluster.version() == "22.05.8"


def test_the_users_own_formats_and_filters_do_not_count(slurm_commands, monkeypatch):
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SACCT_FORMAT", "SINFO_PARTITION",
                 "SCANCEL_INTERACTIVE", "SLURM_CONF", "SLURM_TIME_FORMAT"):  # fmt: skip
        monkeypatch.setenv(name, "mine")
    slurm_commands(squeue=("", "", 0))
    slurm.queue_states(["1"])
    seen = dict(line.split("=", 1) for line in slurm_commands.environment().splitlines())
    assert seen["SLURM_CONF"] == "mine"
    assert seen["SLURM_TIME_FORMAT"] == "standard"
    assert seen["LC_ALL"] == "C"
    assert not [name for name in seen if name.startswith(("SQUEUE", "SACCT", "SINFO", "SCANCEL"))]


def test_accounting(slurm_commands):
    slurm_commands(sacct=(SACCT, "", 0))
    states = slurm.accounting_states(["2", "3", "5", "8", "24", "4_0", "4_2", "4_5"])
    assert set(states) == {"2", "3", "5", "8", "24", "4_0", "4_2"}
    assert states["24"].state == "CANCELLED" and states["24"].over
    assert (states["2"].exit_code, states["5"].exit_code) == (3, 137)
    assert states["8"].state == "OUT_OF_MEMORY" and states["8"].elapsed == 61
    assert states["3"].nodes == "" and states["3"].start is None
    assert states["4_2"].reason == "JobArrayTaskLimit"
    assert slurm_commands()[0].endswith("--jobs=2,3,5,8,24,4")


def test_an_arrays_own_id_brings_its_elements(slurm_commands):
    slurm_commands(sacct=(SACCT, "", 0))
    assert set(slurm.accounting_states(["4"])) == {"4_0", "4_1", "4_2", "4_3", "4_7"}


def test_without_accounting_nothing_is_known(slurm_commands):
    slurm_commands(sacct=("", "Slurm accounting storage is disabled\n", 1))
    assert slurm.accounting_states(["1"]) == {}
    assert not slurm.accounting_enabled()


def test_a_database_that_is_down_is_an_error(slurm_commands):
    words = "sacct: error: Problem talking to the database: Connection refused\n"
    slurm_commands(sacct=("", words, 1))
    for ask in (slurm.accounting_enabled, lambda: slurm.accounting_states(["1"])):
        with pytest.raises(Phase2Error, match="^sacct: Problem talking to the database"):
            ask()


def test_partitions_and_their_nodes(slurm_commands):
    slurm_commands(scontrol=(PARTITIONS, "", 0), sinfo=(SINFO, "", 0))
    found = slurm_cluster.partitions()
    assert list(found) == ["batch", "long", "shut"]
    batch, long, shut = found.values()
    assert (batch.default, batch.up, batch.max_hours, batch.max_nodes) == (True, True, 1, None)
    assert (long.default, long.up, long.max_hours, long.max_nodes) == (False, False, 168, 1)
    assert (batch.accounts, long.accounts) == (None, {"chem", "bio"})
    assert (shut.max_hours, shut.nodes) == (None, ())
    one, two, three = batch.nodes
    assert (one.gpus(), one.gpus("a100"), one.gpu_types()) == (3, 2, {"a100", "v100"})
    assert (two.cpus, two.memory_gb, two.gpus(), two.gpus("a100")) == (8, 32, 2, 0)
    assert (one.features, two.features, three.gpus()) == ({"fast", "avx"}, set(), 0)


def test_cancel(slurm_commands):
    slurm_commands(scancel=("", "", 0))
    slurm.cancel(["12", "4_1"])
    assert slurm_commands() == ["scancel 12 4_1"]
    with pytest.raises(InputError, match="'--user=root' is not the id"):
        slurm.cancel(["12", "--user=root"])
    assert len(slurm_commands()) == 1


@pytest.mark.parametrize(
    "words",
    ["scancel: error: Kill job error on job id 9: Invalid job id specified\n",
     "scancel: error: Kill job error on job id 9: Job/step already completing or completed\n"],
)  # fmt: skip
def test_cancelling_what_is_over_is_fine(slurm_commands, words):
    slurm_commands(scancel=("", words, 1))
    slurm.cancel(["9"])


def test_cancelling_what_is_anothers_is_not(slurm_commands):
    words = "scancel: error: Kill job error on job id 9: Access/permission denied\n"
    slurm_commands(scancel=("", words, 1))
    with pytest.raises(Phase2Error, match="Access/permission denied"):
        slurm.cancel(["9"])


def test_the_trial_of_a_job(slurm_commands):
    words = "sbatch: Job 9 to start at 2026-11-24T01:50:33 using 1 processors on nodes p1\n"
    slurm_commands(sbatch=("", words, 0))
    assert slurm_cluster.expected_start(["--partition=batch"]) == words.strip()
    assert slurm_commands() == ["sbatch --test-only --partition=batch --wrap=true"]
    slurm_commands(sbatch=("", "allocation failure: Invalid feature specification\n", 1))
    with pytest.raises(Phase2Error, match="^sbatch: allocation failure: Invalid feature"):
        slurm_cluster.expected_start([])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:07", 7), ("10:00", 600), ("1:00:00", 3600), ("7-00:00:00", 604800),
     ("UNLIMITED", None), ("INVALID", None), ("", None)],
)  # fmt: skip
def test_lengths_of_time(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12", ["12"]), ("12_3", ["12_3"]), ("12_[0-2]", ["12_0", "12_1", "12_2"]),
     ("12_[5,8-12:4%2]", ["12_5", "12_8", "12_12"])],
)  # fmt: skip
def test_elements_of_an_array(text, expected):
    assert expand_array(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("75:0", 75), ("0:15", 143), ("19200", 75), ("9", 137), ("", None)]
)
def test_exit_codes(text, expected):
    assert parse_exit_code(text) == expected
