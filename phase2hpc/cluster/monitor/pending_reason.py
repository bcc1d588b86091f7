"""Remedies for jobs that stay pending for a reason that does not pass by itself."""

from __future__ import annotations

import re

_RELEASE = "scontrol release {job} lets it go on"
# Slurm's reasons (its page "Job reason codes") and what to do. Those not listed pass when other
# jobs end or a node is back. The first pattern that fits counts.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"PartitionTimeLimit|(QOS|Assoc)MaxWall\w+|(QOS|Association)TimeLimit|DeadLine",
        "ask for less with --time, or set max_hours in the profile: a longer run continues by "
        "requeue",
    ),
    (r"PartitionNodeLimit", "ask for fewer --nodes, or for a partition with more"),
    (
        r"(QOS|Assoc)Grp\w*(?<!Run)Minutes(Limit)?|(QOS|Assoc)GrpWallLimit",
        "the hours granted to the account are used up, or fewer are left than this job asks for: "
        "a smaller --time, another account in the profile, or ask your site for more",
    ),
    (
        r"(QOS|Assoc)Max\w+Per(Job|Node)\w*|QOSMin\w+|MaxMemPerLimit",
        "one job may not ask for that (sacctmgr show qos,assoc): change --nodes, --gpus-per-node, "
        "--cpus or --memory, or the qos in the profile",
    ),
    (
        r"(QOS|Assoc)Grp(?!Jobs|SubmitJobs)\w+|(QOS|Assoc)Max(?!Jobs|SubmitJobs)\w+"
        r"|(QOS|Association)ResourceLimit",
        "it waits for other jobs of the account or user to end; if there are none, it asks for "
        "more than all of them may have (sacctmgr show assoc): ask for less, or name another "
        "account or qos in the profile",
    ),
    (
        r"InvalidAccount|AccountNotAllowed|InvalidQOS|QOSNotAllowed",
        "set account and qos in the profile to what you may use: sacctmgr show assoc user=$USER "
        "format=account,qos",
    ),
    (
        r"BadConstraints|FeaturesNotAvailable",
        "no node has what constraint and resources ask for together: phase2hpc doctor --profile "
        "{profile} compares them",
    ),
    (
        r"ReservationDeleted|ReservationInvalid|InvalidReservation",
        "the reservation is gone: leave it out of the profile",
    ),
    (r"JobHeldUser", f"it is held: {_RELEASE}"),
    (r"JobHeldAdmin", "it is held by an administrator: ask your site"),
    (
        r"JobHoldMaxRequeue|launch failed requeued held|JobLaunchFailure",
        f"its start failed again and again, and it is held: find out why, then {_RELEASE}",
    ),
    (r"DependencyNeverSatisfied", "a job that it depends on has failed: phase2hpc cancel {run}"),
    (
        r"PartitionDown|PartitionInactive",
        "the partition starts no jobs now: wait for your site, or choose another partition",
    ),
    (
        r"ReqNodeNotAvail\W.*|Nodes required for job are DOWN, DRAINED.*",
        "its nodes are down or reserved (sinfo --list-reasons): wait, or ask for a --time that "
        "ends before the reservation begins",
    ),
)


def pending_advice(reason: str, *, run: str, job: str, profile: str) -> str:
    """The remedy for a job that is pending for this reason of Slurm's; '' where it is to wait.

    run, job, profile: names in the commands that it gives.
    """
    for pattern, remedy in _REMEDIES:
        if re.fullmatch(pattern, reason, re.IGNORECASE):
            return remedy.format(run=run, job=job, profile=profile)
    return ""
