"""Checks on a compute node: access to the folder of runs, and clock."""

from __future__ import annotations

import re
import secrets
import shlex
import tempfile
import time
from pathlib import Path

from phase2hpc.cluster.doctor.check import Check, fail, ok, warn
from phase2hpc.cluster.doctor.filesystem import MAX_SKEW_SECONDS
from phase2hpc.cluster.doctor.slurm import command_line, smallest_job
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.slurm import partitions as slurm_cluster
from phase2hpc.errors import Phase2Error
from phase2hpc.utils.mounts import nearest_folder

_MARK = "phase2hpc-doctor:"
# Options of sbatch alone, or set to other values here.
_NOT_FOR_SRUN = (
    "requeue", "no-requeue", "dependency", "nodes", "ntasks_per_node", "time", "hold",
    "get-user-env", "export-file", "wait-all-nodes",
)  # fmt: skip


def node_checks(profile: Profile, folder: Path) -> list[Check]:
    """Run a short job of the profile, which reads a file of the folder and the clock."""
    token, place = secrets.token_hex(8), nearest_folder(folder)
    try:
        with tempfile.NamedTemporaryFile("w", prefix=".phase2hpc-doctor-", dir=place) as file:
            file.write(token)
            file.flush()
            read = f"$(cat {shlex.quote(file.name)} 2>/dev/null || echo nothing)"
            before = time.time()
            # Marked, since a site's prolog may print too.
            shell = f'echo "{_MARK} $SLURMD_NODENAME $(date +%s.%N) {read}"'
            answer = slurm_cluster.run_on_node(_options(profile), shell)
            after = time.time()
    except OSError as error:
        return [
            fail("on a node", f"cannot write a test file: {error.strerror}", "see 'folder' above")
        ]
    except Phase2Error as error:
        advice = "that is Slurm's reason; if nodes are busy, try again later"
        return [fail("on a node", f"no job ran: {error}", advice)]
    match = re.search(rf"^{_MARK} (\S+) (\S+) (\S+)$", answer, re.MULTILINE)
    if match is None:
        return [
            fail(
                "on a node", f"a job printed {answer[:80]!r}", "run srun by hand to see its output"
            )
        ]
    node, clock, found = match.groups()
    checks = [ok("on a node", f"a job ran on {node}, within {after - before:.0f} s")]
    if found == token:
        checks.append(ok("node sees folder", f"{node} reads what this machine writes"))
    else:
        advice = "choose folders that every node sees with --models-dir and --store"
        checks.append(fail("node sees folder", f"{node} does not see {place}", advice))
    skew = max(before - float(clock), float(clock) - after, 0.0)
    difference = f"{node} and this machine differ by {skew:.1f} s"
    if skew > MAX_SKEW_SECONDS:
        return [*checks, warn("node's clock", difference, "have it set (NTP) before it grows")]
    return [*checks, ok("node's clock", difference)]


def _options(profile: Profile) -> list[str]:
    # On one node, so that GPUs of the whole job are those of that node.
    parameters = smallest_job(profile.model_copy(update={"nodes": 1}))
    further = parameters.pop("additional_parameters")
    kept = {key: value for key, value in parameters.items() if key not in _NOT_FOR_SRUN}
    kept["additional_parameters"] = {k: v for k, v in further.items() if k not in _NOT_FOR_SRUN}
    return [*command_line(kept), *profile.srun, "--nodes=1", "--ntasks=1", "--time=2"]
