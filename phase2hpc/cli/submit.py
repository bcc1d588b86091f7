"""``submit``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from phase2hpc.cli.options import RunOptions, SettingOptions, train_request
from phase2hpc.cli.site_options import SiteOptions, job_option
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.cluster.submit.resources import ResourceOverrides


@dataclass(frozen=True)
class JobOptions:
    """Options of the job."""

    profile: Annotated[
        str, job_option("Site profile: a name (jobs/NAME.yaml) or a file.", metavar="SITE")
    ]
    container: Annotated[
        str | None, job_option("Image to run in, instead of the profile's.", metavar="IMAGE")
    ] = None
    nodes: Annotated[int | None, job_option("Nodes.", metavar="N")] = None
    gpus_per_node: Annotated[
        int | None, job_option("GPUs per node, with one process each.", metavar="N")
    ] = None
    tasks_per_node: Annotated[
        int | None, job_option("Processes per node, without GPUs.", metavar="N")
    ] = None
    cpus: Annotated[int | None, job_option("Cores per process.", metavar="N")] = None
    after: Annotated[
        str | None, job_option("Start after these jobs (or runs) have succeeded.", metavar="JOB")
    ] = None
    seeds: Annotated[
        str | None,
        job_option(
            "Ensemble as one job array: 0-4, or 1,3,7; 0-9%2 runs two at once.", metavar="SEEDS"
        ),
    ] = None
    sweep: Annotated[
        list[str] | None,
        job_option(
            "One run per value, as one job array; several: all combinations. A setting (or "
            "properties, algorithm) with values V,V, V/V for lists such as channels=64,32/32,16, "
            "or a range: 0.1..0.5:5, log:1e-4..1e-2:5.",
            metavar="KEY=VALUES",
        ),
    ] = None
    tune: Annotated[
        str | None,
        job_option(
            "Search for settings in N runs, as one job array: each takes its settings from an "
            "Optuna study when it starts; 30%4 runs four at once.",
            metavar="N",
        ),
    ] = None
    space: Annotated[
        Path | None,
        job_option(
            "Settings that --tune chooses (YAML or TOML): a list of values, or {low: 1e-4, "
            "high: 1e-2, log: true}.",
            metavar="FILE",
        ),
    ] = None
    prepare: Annotated[
        list[str] | None,
        job_option("Sources to prepare a missing --store from, in a first job.",
             metavar="SOURCE"),
    ] = None  # fmt: skip
    sbatch: Annotated[
        list[str] | None,
        job_option("Any option of sbatch, by its long name.", metavar="KEY=VALUE"),
    ] = None
    dry_run: Annotated[
        bool, job_option("Show configuration and batch script; submit nothing.", "--dry-run")
    ] = False

    def wanted(self, site: SiteOptions) -> ResourceOverrides:
        """The resource flags. Raises InputError."""
        from phase2hpc.cluster.submit.resources import ResourceOverrides

        for name in ("nodes", "tasks_per_node", "cpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise InputError(f"--gpus-per-node {self.gpus_per_node}: must be at least 0")
        return ResourceOverrides(
            self.nodes,
            self.gpus_per_node,
            self.tasks_per_node,
            self.cpus,
            site.memory_gb(),
            site.hours(),
        )


def submit(job: JobOptions, site: SiteOptions, run: RunOptions, settings: SettingOptions) -> None:
    """Submit training as a batch job, to Slurm or, with a local profile, on this machine.

    Example: phase2hpc submit --level std --profile slurm-gpu --dry-run
    """
    request = train_request(run, settings)
    wanted = job.wanted(site)
    from phase2hpc.cluster.submit.plan import SubmitRequest, make_plans

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
            fields=site.fields(),
            sources=tuple(job.prepare or ()),
            dry_run=job.dry_run,
        )
    )
    from phase2hpc.cluster.submit import submission

    if job.dry_run:
        print(submission.dry_run(plans))
    else:
        submission.submit(plans)
