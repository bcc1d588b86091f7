"""Remedies for Slurm's reasons that do not pass by themselves."""

from __future__ import annotations

import pytest

from phase2hpc.cluster.monitor.pending_reason import pending_advice


def advice(reason: str) -> str:
    return pending_advice(reason, run="abc", job="12_3", profile="mine")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("PartitionTimeLimit", "less with --time"),
        ("QOSMaxWallDurationPerJobLimit", "less with --time"),
        ("AssocMaxWallDurationPerJobLimit", "less with --time"),
        ("PartitionNodeLimit", "fewer --nodes"),
        ("AssocGrpCPUMinutesLimit", "used up"),
        ("AssocGrpGRESMinutes", "used up"),
        ("AssocGrpBillingMinutes", "used up"),
        ("AssocGrpCPURunMinutesLimit", "waits for other jobs"),
        ("AssocGrpGRES", "waits for other jobs"),
        ("QOSGrpCpuLimit", "waits for other jobs"),
        ("QOSMaxGRESPerUser", "waits for other jobs"),
        ("QOSMaxGRESPerJob", "one job may not"),
        ("AssocMaxCpuPerJobLimit", "one job may not"),
        ("QOSMinGRES", "one job may not"),
        ("InvalidAccount", "account and qos"),
        ("BadConstraints", "doctor --profile mine"),
        ("JobHeldUser", "scontrol release 12_3"),
        ("launch failed requeued held", "scontrol release 12_3"),
        ("DependencyNeverSatisfied", "phase2hpc cancel abc"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "sinfo --list-reasons"),
    ],
)
def test_reason_with_a_remedy(reason: str, words: str) -> None:
    assert words in advice(reason)


@pytest.mark.parametrize(
    "reason",
    ["", "Priority", "Resources", "Dependency", "BeginTime", "Licenses", "AssocGrpJobsLimit",
     "QOSMaxJobsPerUserLimit", "JobArrayTaskLimit", "Reservation"],
)  # fmt: skip
def test_reason_that_passes(reason: str) -> None:
    assert advice(reason) == ""
