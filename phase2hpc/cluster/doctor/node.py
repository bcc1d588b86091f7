"""Whether a node of the cluster sees the folder of runs, and tells the same time."""

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
# sbatch's alone, or another number here.
_NOT_SRUNS = ("requeue", "nodes", "ntasks_per_node", "time")


def node_checks(profile: Profile, folder: Path) -> list[Check]:
    """Run a job of the profile for a moment: it reads a file of the folder and the clock."""
    token, place = secrets.token_hex(8), nearest_folder(folder)
    try:
        with tempfile.NamedTemporaryFile("w", prefix=".phase2hpc-doctor-", dir=place) as file:
            file.write(token)
            file.flush()
            read = f"$(cat {shlex.quote(file.name)} 2>/dev/null || echo nothing)"
            before = time.time()
            # Marked: a site's prologs may print what they like.
            shell = f'echo "{_MARK} $SLURMD_NODENAME $(date +%s.%N) {read}"'
            answer = slurm_cluster.run_on_node(_options(profile), shell)
            after = time.time()
    except OSError as error:
        return [fail("on a node", f"no file for it: {error.strerror}", "see 'folder' above")]
    except Phase2Error as error:
        advice = "Slurm's own reason; with nodes busy, try again later"
        return [fail("on a node", f"no job ran: {error}", advice)]
    said = re.search(rf"^{_MARK} (\S+) (\S+) (\S+)$", answer, re.MULTILINE)
    if said is None:
        return [fail("on a node", f"a job printed {answer[:80]!r}", "look at srun's output there")]
    node, clock, found = said.groups()
    checks = [ok("on a node", f"a job ran on {node}, within {after - before:.0f} s")]
    if found == token:
        checks.append(ok("node sees folder", f"{node} reads what this machine writes"))
    else:
        advice = "put runs and stores where every node sees them, by --models-dir and --store"
        checks.append(fail("node sees folder", f"{node} does not see {place}", advice))
    skew = max(before - float(clock), float(clock) - after, 0.0)
    apart = f"{node}'s and this machine's are {skew:.1f} s apart"
    if skew > MAX_SKEW_SECONDS:
        return [*checks, warn("node's clock", apart, "have it set (NTP) before it grows")]
    return [*checks, ok("node's clock", apart)]


def _options(profile: Profile) -> list[str]:
    parameters = smallest_job(profile)
    further = parameters.pop("additional_parameters")
    kept = {key: value for key, value in parameters.items() if key not in _NOT_SRUNS}
    kept["additional_parameters"] = {k: v for k, v in further.items() if k not in _NOT_SRUNS}
    return [*command_line(kept), *profile.srun, "--nodes=1", "--ntasks=1", "--time=2"]
