"""Types of profile fields: text that is safe in a batch script, sizes, times."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from phase2hpc.config.algorithm_registry import unknown_key
from phase2hpc.config.algorithms import LEVEL_NAMES

# sbatch options that have a field, and a flag of ``submit``, of their own.
_SET_BY = {
    "account": "account, or --account", "constraint": "constraint, or --constraint",
    "cpus-per-task": "cpus, or --cpus", "dependency": "dependency, or --after",
    "gpus": "gpus with gpu_request", "gpus-per-node": "gpus, or --gpus-per-node",
    "gpus-per-task": "gpus with gpu_request", "job-name": "job_name, or --job-name",
    "mem": "memory_gb, or --memory", "no-requeue": "requeue", "nodes": "nodes, or --nodes",
    "partition": "partition, or --partition", "qos": "qos, or --qos", "requeue": "requeue",
    "reservation": "reservation, or --reservation", "signal": "signal_seconds",
    "time": "hours, or --time",
}  # fmt: skip
# sbatch options that phase2hpc sets.
_RESERVED_OPTIONS = (
    "array", "chdir", "error", "help", "ntasks", "ntasks-per-gpu", "ntasks-per-node", "open-mode",
    "output", "parsable", "test-only", "version", "wait", "wrap",
)  # fmt: skip


def _one_line(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("contains a line break, a tab or another control character")
    return text


def _matching(pattern: str, problem: str) -> Callable[[str], str]:
    """A check that the whole text matches a pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(problem)
        return text

    return check


# A name, list of names or expression over names, as Slurm accepts them.
_name = _matching(
    r"[A-Za-z0-9_(\[][A-Za-z0-9_.,:@+&|*()\[\]=/-]*",
    "contains a character that names in Slurm do not have",
)
_bind = _matching(r"/.*", "write a bind as /on/the/node or /on/the/node:/in/the/container[:ro]")
_variable = _matching(r"[A-Za-z_][A-Za-z0-9_]*", "is not the name of an environment variable")


def _expanded(text: str) -> str:
    """Expand ``~`` and environment variables; refuse other shell syntax."""
    text = os.path.expanduser(os.path.expandvars(_one_line(text)))
    if unset := re.search(r"\$\{?(\w+)\}?", text):
        raise ValueError(f"the variable {unset[1]} is not set")
    if found := re.search(r"[$`]", text):
        raise ValueError(f"'{found[0]}' is not allowed; commands belong in 'setup'")
    return text


def parse_gigabytes(value: Any) -> Any:
    """Slurm's notation (64G, 512M, 1T) in GiB; anything else unchanged."""
    if isinstance(value, str) and (
        match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])(?:i?B)?", value.strip(), re.IGNORECASE)
    ):
        return float(match[1]) * {"M": 1 / 1024, "G": 1, "T": 1024}[match[2].upper()]
    return value


def parse_hours(value: Any) -> Any:
    """Slurm's D-HH, D-HH:MM, D-HH:MM:SS and HH:MM:SS in hours; anything else unchanged.

    Raises ValueError for ``12:30``, which Slurm reads as minutes and seconds and people do not.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d\d?))?(?::(\d\d?))?", value.strip())
    if match is None:
        return value
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if match[1] is None and match[3] is not None and match[4] is None:
        raise ValueError("ambiguous (minutes and seconds, or hours and minutes): write HH:MM:SS")
    return 24 * days + hours + minutes / 60 + seconds / 3600


def _level(text: str) -> str:
    if text not in LEVEL_NAMES:
        raise ValueError(unknown_key("level", text, LEVEL_NAMES))
    return text


CLUSTER_OPTIONS = ("cluster", "clusters")
NOT_BY_OPTION = (
    "status and cancel would not find the job; choose the cluster for all commands by the "
    "environment variable SLURM_CLUSTERS"
)


def checked_sbatch(options: Any) -> Any:
    """Additional sbatch options by long name without dashes; True for one without a value, False
    for one that is left out although a profile, or the one that it extends, has it.

    Raises ValueError for one that has a field, or that phase2hpc sets. Anything but a mapping is
    returned unchanged.
    """
    if not isinstance(options, Mapping):
        return options
    checked: dict[str, str | bool] = {}
    for given, value in options.items():
        key = str(given).removeprefix("--").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]+", key):
            raise ValueError(f"'{given}' is not a long option of sbatch")
        if key in _SET_BY:
            raise ValueError(f"'{key}' is set by the profile's field {_SET_BY[key]}")
        if key in CLUSTER_OPTIONS:
            raise ValueError(f"'{key}': {NOT_BY_OPTION}")
        if key in _RESERVED_OPTIONS:
            raise ValueError(f"'{key}' is set by phase2hpc")
        if str(value).lower() == "false":
            checked[key] = False
        elif value is True or value is None or str(value).lower() in ("true", ""):
            checked[key] = True
        else:
            checked[key] = _one_line(str(value))
    return checked


def _lines(value: Any) -> Any:
    """The lines of a block of text; anything else unchanged."""
    return value.splitlines() if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("write a list: [first, second], or a line '- first' for each")
    return value


Name = Annotated[str, AfterValidator(_name)]
GpuType = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
Line = Annotated[str, AfterValidator(_one_line)]
Expanded = Annotated[str, Field(min_length=1), AfterValidator(_expanded)]
Gigabytes = Annotated[float, BeforeValidator(parse_gigabytes), Field(gt=0, allow_inf_nan=False)]
# 0 is Slurm's word for all of the node's.
NodeMemory = Annotated[float, BeforeValidator(parse_gigabytes), Field(ge=0, allow_inf_nan=False)]
Hours = Annotated[float, BeforeValidator(parse_hours), Field(gt=0, allow_inf_nan=False)]
HoursPerLevel = dict[Annotated[str, AfterValidator(_level)], Hours]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_lines)]
Options = Annotated[tuple[Expanded, ...], BeforeValidator(_listed)]
Binds = Annotated[tuple[Annotated[Expanded, AfterValidator(_bind)], ...], BeforeValidator(_listed)]
Environment = dict[Annotated[str, AfterValidator(_variable)], Expanded]
SbatchOptions = Annotated[dict[str, str | bool], BeforeValidator(checked_sbatch)]
