"""Variables of the submitting shell that sbatch takes for options.

For sbatch they go before the options of the script, so that those which the script sets, or which
exclude one of them, are not passed on.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

from phase2hpc.cluster.slurm.clusters import VARIABLE as CLUSTERS_VARIABLE
from phase2hpc.cluster.slurm.command import environment_outside_jobs
from phase2hpc.cluster.submit.exclusive_options import SbatchOption

_PREFIX = "SBATCH_"
# The option of a variable, where it is not the variable's name.
_OPTION_OF = {
    "SBATCH_ARRAY_INX": "array", "SBATCH_CPU_FREQ_REQ": "cpu-freq", "SBATCH_DEBUG": "verbose",
    "SBATCH_MEM_PER_NODE": "mem", "SBATCH_REQ_SWITCH": "switches", "SBATCH_TIMELIMIT": "time",
    "SBATCH_WAIT4SWITCH": "switches",
}  # fmt: skip
# An array of one job has other ids and logs, and sbatch --wait answers when the job has ended.
_NEVER_PASSED = ("array", "wait")


def script_options(script: str) -> list[SbatchOption]:
    """The options in the #SBATCH lines of a batch script."""
    found = []
    for line in re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE):
        name, _, value = " ".join(shlex.split(line)).partition("=")
        found.append(SbatchOption(name, value or True, "the batch script"))
    return found


def sbatch_environment(options: Iterable[SbatchOption]) -> dict[str, str]:
    """The environment for sbatch: without variables that would change these options, and without
    those of an enclosing job."""
    # The cluster is an option of sbatch: on the node, scontrol is to ask the job's own controller.
    dropped = {CLUSTERS_VARIABLE, *dropped_variables(options)}
    found = environment_outside_jobs()
    return {name: value for name, value in found.items() if name not in dropped}


def dropped_variables(options: Iterable[SbatchOption]) -> dict[str, str]:
    """The variables, with their values, that are not passed on to an sbatch with these options."""
    options = list(options)
    names = {option.name for option in options} | set(_NEVER_PASSED)
    requested = {what for option in options for what in option.requests()}
    dropped = {}
    for variable, value in _variables().items():
        option = _option(variable, value)
        if option.name in names or option.requests() & requested:
            dropped[variable] = value
    return dropped


def variable_notes(options: Iterable[SbatchOption]) -> list[str]:
    """A line for the variables that are not passed on, and one for those that are."""
    options = list(options)
    dropped = dropped_variables(options)
    notes = []
    if dropped:
        notes.append(f"not passed to sbatch, since the script decides: {_listed(dropped)}")
    if kept := {k: v for k, v in _variables().items() if k not in dropped}:
        notes.append(f"passed to sbatch from this shell: {_listed(kept)}")
    return notes


def _variables() -> dict[str, str]:
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_PREFIX)}


def _option(variable: str, value: str) -> SbatchOption:
    derived = variable.removeprefix(_PREFIX).lower().replace("_", "-")
    return SbatchOption(_OPTION_OF.get(variable, derived), value, variable)


def _listed(variables: dict[str, str]) -> str:
    return shlex.join(f"{name}={value}" for name, value in variables.items())
