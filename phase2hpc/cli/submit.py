"""``submit``."""

from __future__ import annotations

from dataclasses import dataclass
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

    profile: Annotated[str, _job_option("Site profile: a name (`jobs/NAME.yaml`) or a file.")]
    container: Annotated[
        str | None, _job_option("Image to run in, instead of the profile's.", metavar="IMAGE")
    ] = None
    nodes: Annotated[int | None, _job_option("Nodes.")] = None
    gpus_per_node: Annotated[int | None, _job_option("GPUs per node, with one process each.")] = (
        None
    )
    tasks_per_node: Annotated[int | None, _job_option("Processes per node, without GPUs.")] = None
    cpus: Annotated[int | None, _job_option("Cores per process.")] = None
    memory: Annotated[
        str | None, _job_option("Memory per node: GiB, or as 64G.", metavar="SIZE")
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
        str | None, _job_option("Ensemble as one job array: 0-4, or 1,3,7.", metavar="SEEDS")
    ] = None
    sweep: Annotated[
        list[str] | None,
        _job_option(
            "One run per value, as one job array; several: all combinations.", metavar="KEY=V,V"
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
        memory = None if self.memory is None else _number("memory", self.memory, parse_gigabytes)
        time = AUTO if self.time == AUTO else _number("time", self.time, parse_hours)
        return ResourceOverrides(
            self.nodes, self.gpus_per_node, self.tasks_per_node, self.cpus, memory, time
        )


def _number(flag: str, text: str, parse: Any) -> float:
    try:
        value = float(parse(text))
    except ValueError as error:
        raise InputError(f"--{flag} {text}: {error}") from None
    if not 0 < value < float("inf"):
        raise InputError(f"--{flag} {text}: must be more than 0")
    return value


def submit(job: JobOptions, run: RunOptions, settings: SettingOptions) -> None:
    """Submit training as a batch job, to Slurm or, with a local profile, on this machine."""
    request = train_request(run, settings)
    wanted = job.wanted()
    from phase2hpc.cluster.submit.plan import SubmitRequest, make_plan

    plan = make_plan(
        SubmitRequest(
            train=request,
            profile=job.profile,
            container=job.container,
            wanted=wanted,
            after=job.after,
            seeds=job.seeds,
            sweeps=tuple(job.sweep or ()),
            sbatch=tuple(job.sbatch or ()),
            sources=tuple(job.prepare or ()),
        )
    )
    from phase2hpc.cluster.submit import submission

    if job.dry_run:
        print(submission.dry_run(plan))
    else:
        submission.submit(plan)
