"""What the fields of a profile may hold: text that is safe in a batch script, sizes, times."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

# sbatch options that have a field, or that the job's own mechanism sets.
_OWN_FIELD = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "reservation": "reservation", "gres": "gpu_request and gpu_type", "gpus": "gpus",
    "gpus-per-node": "gpus", "gpus-per-task": "gpus", "cpus-per-task": "cpus",
    "mem": "memory_gb", "nodes": "nodes", "time": "hours", "signal": "signal_seconds",
}  # fmt: skip
_NOT_YOURS = (
    "array", "chdir", "dependency", "error", "help", "job-name", "no-requeue", "ntasks",
    "ntasks-per-node", "open-mode", "output", "parsable", "requeue", "test-only", "version",
    "wait", "wrap",
)  # fmt: skip


def _one_line(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("holds a line break, a tab or another control character")
    return text


def _name(text: str) -> str:
    """What Slurm takes as a name, a list of names or an expression over them."""
    if not re.fullmatch(r"[A-Za-z0-9_(\[][A-Za-z0-9_.,:@+&|*()\[\]=/-]*", text):
        raise ValueError("holds a character that no name has in Slurm")
    return text


def _expanded(text: str) -> str:
    """``~`` and variables of the submitting shell put in; nothing is left for a shell to do."""
    text = os.path.expanduser(os.path.expandvars(_one_line(text)))
    if unset := re.search(r"\$\{?(\w+)\}?", text):
        raise ValueError(f"the variable {unset[1]} is not set here")
    if found := re.search(r"[$`]", text):
        raise ValueError(f"'{found[0]}' is not allowed here; commands belong in 'setup'")
    return text


def parse_gigabytes(value: Any) -> Any:
    """Slurm's notation (64G, 512M, 1T) in GiB; anything else as it is."""
    if isinstance(value, str) and (
        match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])(?:i?B)?", value.strip(), re.IGNORECASE)
    ):
        return float(match[1]) * {"M": 1 / 1024, "G": 1, "T": 1024}[match[2].upper()]
    return value


def parse_hours(value: Any) -> Any:
    """Slurm's D-HH, D-HH:MM, D-HH:MM:SS and HH:MM:SS in hours; anything else as it is.

    Slurm reads HH:MM as minutes and seconds, and a person does not: ValueError.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d\d?))?(?::(\d\d?))?", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        if match[1] is None and match[3] is not None and match[4] is None:
            raise ValueError("minutes and seconds, or hours and minutes? write HH:MM:SS")
        return 24 * days + hours + minutes / 60 + seconds / 3600
    return value


def _bind(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("write a bind as /on/the/node or /on/the/node:/in/the/container[:ro]")
    return text


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("is not the name of an environment variable")
    return text


def checked_sbatch(options: Any) -> Any:
    """Additional sbatch options by long name without dashes; True for one without a value.

    Raises ValueError for one that has a field of its own, or that the job sets itself. What is
    no mapping is returned as it is.
    """
    if not isinstance(options, Mapping):
        return options
    checked: dict[str, str | Literal[True]] = {}
    for given, value in options.items():
        key = str(given).removeprefix("--").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]+", key):
            raise ValueError(f"'{given}' is not a long option of sbatch")
        if key in _OWN_FIELD:
            raise ValueError(f"'{key}' is said by the profile's {_OWN_FIELD[key]}")
        if key in _NOT_YOURS:
            raise ValueError(f"'{key}' is set by phase2hpc itself")
        if value is True or value is None or str(value).lower() in ("true", ""):
            checked[key] = True
        else:
            checked[key] = _one_line(str(value))
    return checked


def _lines(value: Any) -> Any:
    """A block of text as its lines; anything else as it is."""
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
Hours = Annotated[float, BeforeValidator(parse_hours), Field(gt=0, allow_inf_nan=False)]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_lines)]
Options = Annotated[tuple[Expanded, ...], BeforeValidator(_listed)]
Binds = Annotated[tuple[Annotated[Expanded, AfterValidator(_bind)], ...], BeforeValidator(_listed)]
Environment = dict[Annotated[str, AfterValidator(_variable)], Expanded]
SbatchOptions = Annotated[dict[str, str | Literal[True]], BeforeValidator(checked_sbatch)]

# What a person may write for each, for the page and for messages.
WRITTEN = {
    Name: "name",
    GpuType: "name",
    Line: "text",
    Expanded: "text",
    Gigabytes: "GiB, or 64G",
    Hours: "hours, or D-HH:MM:SS",
    Lines: "list of lines, or a block",
    Options: "list",
    Binds: "list",
    Environment: "NAME: value",
    SbatchOptions: "option: value",
    int: "whole number",
    bool: "true or false",
}
