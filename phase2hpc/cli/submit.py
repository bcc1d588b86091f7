"""``submit``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phase2hpc.cli.options import RunOptions, SettingOptions, train_request
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.cluster.submit.resources import ResourceOverrides


def _job_option(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Job")


@dataclass(frozen=True)
class JobOptions:
    """Options of the job."""

    profile: Annotated[
        str, _job_option("Site profile: a name (jobs/NAME.yaml) or a file.", metavar="SITE")
    ]
    container: Annotated[
        str | None, _job_option("Image to run in, instead of the profile's.", metavar="IMAGE")
    ] = None
    partition: Annotated[str | None, _job_option("Partition, or a comma list.", metavar="NAME")] = (
        None
    )
    account: Annotated[str | None, _job_option("Account that is charged.", metavar="NAME")] = None
    qos: Annotated[str | None, _job_option("Quality of service.", metavar="NAME")] = None
    constraint: Annotated[
        str | None, _job_option("Required node features.", metavar="FEATURES")
    ] = None
    reservation: Annotated[str | None, _job_option("Reservation to run in.", metavar="NAME")] = None
    job_name: Annotated[str | None, _job_option("Name of the job.", metavar="NAME")] = None
    nodes: Annotated[int | None, _job_option("Nodes.", metavar="N")] = None
    gpus_per_node: Annotated[
        int | None, _job_option("GPUs per node, with one process each.", metavar="N")
    ] = None
    tasks_per_node: Annotated[
        int | None, _job_option("Processes per node, without GPUs.", metavar="N")
    ] = None
    cpus: Annotated[int | None, _job_option("Cores per process.", metavar="N")] = None
    memory: Annotated[
        str | None,
        _job_option("Memory per node: GiB, or as 64G; 0: all of the node's.", metavar="SIZE"),
    ] = None
    time: Annotated[
        str,
        _job_option(
            "Time limit: hours, HH:MM:SS, D-HH:MM:SS, or auto to estimate it.", metavar="TIME"
        ),
    ] = "auto"
    after: Annotated[
        str | None, _job_option("Start after these jobs (or runs) have succeeded.", metavar="JOB")
    ] = None
    seeds: Annotated[
        str | None,
        _job_option(
            "Ensemble as one job array: 0-4, or 1,3,7; 0-9%2 runs two at once.", metavar="SEEDS"
        ),
    ] = None
    sweep: Annotated[
        list[str] | None,
        _job_option(
            "One run per value, as one job array; several: all combinations. A setting (or "
            "properties, algorithm) with values V,V, V/V for lists such as channels=64,32/32,16, "
            "or a range: 0.1..0.5:5, log:1e-4..1e-2:5.",
            metavar="KEY=VALUES",
        ),
    ] = None
    tune: Annotated[
        str | None,
        _job_option(
            "Search for settings in N runs, as one job array: each takes its settings from an "
            "Optuna study when it starts; 30%4 runs four at once.",
            metavar="N",
        ),
    ] = None
    space: Annotated[
        Path | None,
        _job_option(
            "Settings that --tune chooses (YAML or TOML): a list of values, or {low: 1e-4, "
            "high: 1e-2, log: true}.",
            metavar="FILE",
        ),
    ] = None
    prepare: Annotated[
        list[str] | None,
        _job_option("Sources to prepare a missing --store from, in a first job.",
             metavar="SOURCE"),
    ] = None  # fmt: skip
    sbatch: Annotated[
        list[str] | None,
        _job_option("Any option of sbatch, by its long name.", metavar="KEY=VALUE"),
    ] = None
    dry_run: Annotated[
        bool, _job_option("Show configuration and batch script; submit nothing.", "--dry-run")
    ] = False

    def wanted(self) -> ResourceOverrides:
        """The resource flags. Raises InputError."""
        from phase2hpc.cluster.profiles.fields import parse_gigabytes, parse_hours
        from phase2hpc.cluster.submit.resources import AUTO, ResourceOverrides

        for name in ("nodes", "tasks_per_node", "cpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise InputError(f"--gpus-per-node {self.gpus_per_node}: must be at least 0")
        memory = None
        if self.memory is not None:
            memory = _number("memory", self.memory, parse_gigabytes, at_least=0)
        time = AUTO if self.time == AUTO else _number("time", self.time, parse_hours)
        return ResourceOverrides(
            self.nodes, self.gpus_per_node, self.tasks_per_node, self.cpus, memory, time
        )


def _number(flag: str, text: str, parse: Any, at_least: float | None = None) -> float:
    try:
        value = float(parse(text))
    except ValueError as error:
        raise InputError(f"--{flag} {text}: {error}") from None
    if not (0 < value < float("inf") or value == at_least):
        limit = "more than 0" if at_least is None else f"at least {at_least:g}"
        raise InputError(f"--{flag} {text}: must be {limit}")
    return value


def submit(job: JobOptions, run: RunOptions, settings: SettingOptions) -> None:
    """Submit training as a batch job, to Slurm or, with a local profile, on this machine.

    Example: phase2hpc submit --level std --profile slurm-gpu --dry-run
    """
    request = train_request(run, settings)
    wanted = job.wanted()
    from phase2hpc.cluster.submit.plan import FIELD_FLAGS, SubmitRequest, make_plans

    plans = make_plans(
        SubmitRequest(
            train=request,
            profile=job.profile,
            container=job.container,
            wanted=wanted,
            after=job.after,
            seeds=job.seeds,
            sweeps=tuple(job.sweep or ()),
            tune=job.tune,
            space=job.space,
            sbatch=tuple(job.sbatch or ()),
            fields={name: getattr(job, name) for name in FIELD_FLAGS},
            sources=tuple(job.prepare or ()),
            dry_run=job.dry_run,
        )
    )
    from phase2hpc.cluster.submit import submission

    if job.dry_run:
        print(submission.dry_run(plans))
    else:
        submission.submit(plans)
