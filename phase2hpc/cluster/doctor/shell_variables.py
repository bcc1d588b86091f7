"""Check of the shell's variables that sbatch takes for options."""

from __future__ import annotations

from phase2hpc.cluster.doctor.check import Check, ok, warn
from phase2hpc.cluster.doctor.slurm import smallest_script
from phase2hpc.cluster.profiles.profile import Profile
from phase2hpc.cluster.submit.shell_variables import (
    dropped_variables,
    script_options,
    variable_notes,
)
from phase2hpc.errors import InputError


def shell_variable_checks(profile: Profile | None) -> list[Check]:
    """The SBATCH_* variables that a job of the profile would not be given, and those that it would;
    no check if there are none."""
    try:
        options = script_options(smallest_script(profile or Profile()).text())
    except InputError:
        # The trial job names the contradiction.
        return []
    notes = variable_notes(options)
    if not notes:
        return []
    found = "; ".join(notes)
    if not dropped_variables(options):
        return [ok("SBATCH_ variables", found)]
    return [warn("SBATCH_ variables", found, "set the profile's fields instead, and unset them")]
