"""Options of every command that submits jobs: where they run, and their memory and time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from phase2hpc.errors import InputError


def job_option(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Job")


@dataclass(frozen=True)
class SiteOptions:
    """Options of a job over those of the site's profile."""

    partition: Annotated[str | None, job_option("Partition, or a comma list.", metavar="NAME")] = (
        None
    )
    account: Annotated[str | None, job_option("Account that is charged.", metavar="NAME")] = None
    qos: Annotated[str | None, job_option("Quality of service.", metavar="NAME")] = None
    constraint: Annotated[str | None, job_option("Required node features.", metavar="FEATURES")] = (
        None
    )
    reservation: Annotated[str | None, job_option("Reservation to run in.", metavar="NAME")] = None
    job_name: Annotated[str | None, job_option("Name of the job.", metavar="NAME")] = None
    memory: Annotated[
        str | None,
        job_option("Memory per node: GiB, or as 64G; 0: all of the node's.", metavar="SIZE"),
    ] = None
    time: Annotated[
        str,
        job_option(
            "Time limit: hours, HH:MM:SS, D-HH:MM:SS, or auto to estimate it.", metavar="TIME"
        ),
    ] = "auto"

    def fields(self) -> dict[str, str | None]:
        """Values of the flags that set a field of the profile."""
        from phase2hpc.cluster.submit.sbatch_options import FIELD_FLAGS

        return {name: getattr(self, name) for name in FIELD_FLAGS}

    def memory_gb(self) -> float | None:
        """GiB per node, None if not given. Raises InputError."""
        from phase2hpc.cluster.profiles.fields import parse_gigabytes

        if self.memory is None:
            return None
        return _number("memory", self.memory, parse_gigabytes, "GiB, as 64, or 64G", at_least=0)

    def hours(self) -> float | str:
        """The time limit in hours, or auto. Raises InputError."""
        from phase2hpc.cluster.profiles.fields import parse_hours
        from phase2hpc.cluster.submit.resources import AUTO

        return (
            AUTO
            if self.time == AUTO
            else _number("time", self.time, parse_hours, "hours, HH:MM:SS or D-HH:MM:SS")
        )

    def given(self) -> list[str]:
        """The flags that are given."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]

    def refuse_without_jobs(self, profile: str | None, shards: int | None) -> None:
        """Raise InputError for flags of jobs where none is submitted."""
        flags = [*(["--profile"] if profile is not None else []), *self.given()]
        if shards is None and flags:
            raise InputError(f"{flags[0]}: only with --shards; without, this is one process here")
        if profile is None and flags:
            raise InputError(f"{flags[0]}: only with --profile; without, the shards run here")


def _number(flag: str, text: str, parse: Any, forms: str, at_least: float | None = None) -> float:
    try:
        parsed = parse(text)
    except ValueError as error:
        raise InputError(f"--{flag} {text}: {error}") from None
    try:
        value = float(parsed)
    except ValueError:
        raise InputError(f"--{flag} {text}: write {forms}") from None
    if not (0 < value < float("inf") or value == at_least):
        limit = "more than 0" if at_least is None else f"at least {at_least:g}"
        raise InputError(f"--{flag} {text}: must be {limit}")
    return value
