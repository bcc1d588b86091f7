"""Plan of a submission: runs, resources and scripts. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from phase2hpc.cluster.profiles.profile import (
    ContainerSettings,
    Profile,
    find_profile,
    portable_name,
)
from phase2hpc.cluster.submit import prepare_job as preparation
from phase2hpc.cluster.submit.array_size import refuse_large_array
from phase2hpc.cluster.submit.batch_script import chosen_container, job_script, prepare_script
from phase2hpc.cluster.submit.container import image_exists
from phase2hpc.cluster.submit.estimate import longest
from phase2hpc.cluster.submit.partition_limit import with_partition_limit
from phase2hpc.cluster.submit.planned_runs import PlannedRun, new_runs
from phase2hpc.cluster.submit.resources import (
    AUTO,
    ResourceOverrides,
    ResourceRequest,
    allocate,
)
from phase2hpc.cluster.submit.sbatch_options import start_after, with_options
from phase2hpc.cluster.submit.slurm_executor import JobScript
from phase2hpc.cluster.submit.store_size import PlannedStore
from phase2hpc.cluster.submit.sweep import (
    ALGORITHM,
    Member,
    Sweep,
    at_once,
    members,
    parse_sweeps,
    trials,
)
from phase2hpc.config.algorithm_registry import algorithm_named, level_named
from phase2hpc.config.run_config import RunConfig
from phase2hpc.errors import InputError
from phase2hpc.runs.ensemble import array_folder
from phase2hpc.runs.job_request import JobRequest
from phase2hpc.runs.run_directory import (
    RunDirectory,
    checked_run_id,
    new_run_id,
)
from phase2hpc.training.request import TrainRequest
from phase2hpc.training.resume_config import resumed_config, run_to_resume
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.package_files import default_store
from phase2hpc.utils.time_format import format_duration

if TYPE_CHECKING:
    from phase2hpc.training.tuning.space import Space


# Placeholder in --dry-run for the id of the job that prepares the store.
ID_OF_PREPARE = "ID_OF_THE_FIRST_JOB"


@dataclass(frozen=True)
class SubmitRequest:
    """Arguments of ``phase2hpc submit``. tune and space: number of trials and file of a search for
    settings. fields: of the profile, by flags of the same name. sources: what a missing store is
    prepared from. dry_run: nothing will be submitted."""

    train: TrainRequest
    profile: str
    container: str | None = None
    wanted: ResourceOverrides = field(default_factory=ResourceOverrides)
    after: str | None = None
    seeds: str | None = None
    sweeps: tuple[str, ...] = ()
    tune: str | None = None
    space: Path | None = None
    sbatch: tuple[str, ...] = ()
    fields: Mapping[str, str | None] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that ``submit`` does. ``prepare``: script of the job that prepares the store, None
    if the store exists. ``ensemble``: id of the array's runs, None for one job. ``space``: of a
    search for settings, None for none."""

    request: SubmitRequest
    profile: Profile
    runs: tuple[PlannedRun, ...]
    store: Path
    allocation: ResourceRequest
    script: JobScript
    prepare: JobScript | None
    container: ContainerSettings | None
    ensemble: str | None
    space: Space | None = None
    dependencies: tuple[str, ...] = ()

    @property
    def image_note(self) -> str | None:
        """A line about an image that this machine does not have, which a dry run accepts."""
        if self.container is None or image_exists(self.container):
            return None
        return (
            f"container image {self.container.image} is not checked: no such file here yet, and "
            "submit needs it"
        )

    @property
    def is_unlimited(self) -> bool:
        """True if a local run has no time limit: an estimate does not limit it."""
        profile = self.profile
        given = self.request.wanted.time != AUTO or profile.hours or profile.max_hours
        return profile.executor == "local" and not given

    @property
    def hours(self) -> float:
        return self.allocation.minutes / 60

    @property
    def signal_seconds(self) -> int:
        return self.allocation.signal_seconds(self.profile.signal_seconds)

    @property
    def submission(self) -> JobRequest:
        """The request as stored in the manifest, with absolute paths."""
        request, wanted = self.request, self.request.wanted
        return JobRequest(
            profile=portable_name(request.profile),
            container=self.container.image if request.container and self.container else None,
            nodes=wanted.nodes,
            gpus_per_node=wanted.gpus_per_node,
            tasks_per_node=wanted.tasks_per_node,
            cpus=wanted.cpus,
            memory=wanted.memory_gb,
            time=None
            if isinstance(wanted.time, str)
            else format_duration(60 * math.ceil(60 * wanted.time)),
            **request.fields,
            sbatch=list(request.sbatch),
            prepare=absolute_sources(request.sources),
        )

    def script_after(self, prepare_id: str | None) -> JobScript:
        """The script with its dependencies, including the job that prepares the store."""
        ids = [*self.dependencies, *([prepare_id] if prepare_id else [])]
        return start_after(self.script, ids)


def make_plans(request: SubmitRequest) -> tuple[Plan, ...]:
    """Plan a submission: one job or array, or one for each algorithm of ``--sweep algorithm``.

    Only the first prepares a missing store. Raises InputError if the request is invalid.
    """
    train = request.train
    profile, options = with_options(find_profile(request.profile), request.sbatch, request.fields)
    if options and profile.executor == "local":
        raise InputError(f"--sbatch {next(iter(options))}: has no effect with a local profile")
    sweeps = parse_sweeps(request.sweeps, train.algorithm)
    if (request.seeds is not None or sweeps) and train.resume:
        raise InputError("--resume continues one run: leave out --seeds and --sweep")
    if request.seeds is not None and train.seed is not None:
        raise InputError("--seed and --seeds: give one of them")
    _check_search(request)
    profile = with_partition_limit(profile)
    base = checked_run_id(train.run_id) if train.run_id and not train.resume else new_run_id()
    algorithms = [sweep.values for sweep in sweeps if sweep.key == ALGORITHM]
    found = _members(request, [sweep for sweep in sweeps if sweep.key != ALGORITHM])
    dependencies: tuple[str, ...] = ()
    if request.after:
        # Imported here: states of runs, which a submission without --after does not need.
        from phase2hpc.cluster.submit.dependencies import dependency_ids

        dependencies = tuple(dependency_ids(request.after, train.models_dir))

    def planned(one: SubmitRequest, base: str) -> Plan:
        plan = _plan(one, profile, options, found, base)
        return replace(plan, dependencies=dependencies)

    if not algorithms:
        return (planned(request, base),)
    requests = {
        name: replace(request, train=replace(train, algorithm=name)) for name in algorithms[0]
    }
    first, *others = (planned(one, f"{base}-{name}") for name, one in requests.items())
    return first, *(replace(plan, prepare=None) for plan in others)


def _check_search(request: SubmitRequest) -> None:
    if request.tune is None and request.space is None:
        return
    if request.tune is None or request.space is None:
        raise InputError("--tune and --space: a search needs its number of trials and its space")
    if request.seeds is not None or request.sweeps:
        raise InputError("--tune chooses the settings of its runs: leave out --seeds and --sweep")
    if request.train.resume:
        raise InputError("--resume continues one run: leave out --tune and --space")


def _members(request: SubmitRequest, sweeps: list[Sweep]) -> list[Member]:
    if request.tune is not None:
        count, _ = at_once("--tune", request.tune)
        return trials(count or "")
    seeds, _ = at_once("--seeds", request.seeds)
    return members(seeds, sweeps)


def _plan(
    request: SubmitRequest,
    profile: Profile,
    options: dict[str, str | bool],
    found: list[Member],
    base: str,
) -> Plan:
    """The plan of one job, or of an array with these members. base: of the ids of its runs."""
    train = request.train
    profile = profile.at_level(train.level)
    level = level_named(algorithm_named(train.algorithm), train.level)
    several = found != [Member()]
    if several and profile.executor == "slurm":
        refuse_large_array(len(found))
    path = train.store or default_store()
    resumed = run_to_resume(train) if train.resume else None
    if resumed is not None:
        config = resumed_config(train, resumed)
        store = PlannedStore.inspect(config.runtime.store or path)
        runs = [PlannedRun(resumed, config, Member())]
    else:
        store = PlannedStore.inspect(path)
        runs = new_runs(train, store, base, found)
    configs = [planned.config for planned in runs]
    space = None
    if request.space is not None:
        from phase2hpc.cluster.submit.tuning import checked_space, read_space

        space = read_space(request.space, train.algorithm, train.overrides)
        configs += checked_space(space, configs[0], str(request.space))
    if request.sources and store.exists:
        raise InputError(f"--prepare: the store {store.path} exists already; leave out --prepare")
    # The store of a resumed run can only be prepared again from its own sources.
    prepare_first = not store.exists and (resumed is None or bool(request.sources))
    if prepare_first and train.store is not None and not request.sources:
        raise store.missing()
    is_sample = not request.sources and train.store is None
    size = store.size(is_sample=is_sample)
    done = resumed.read_manifest().epoch if resumed is not None else 0
    cuda = _uses_cuda(runs[0].config, profile, request.wanted, level.resources.gpus)
    expected = None
    if size is not None:
        # One time limit is that of all jobs of an array.
        expected = longest(configs, train.models_dir, size, cuda=cuda, done=done)
    allocation = allocate(level.resources, profile, request.wanted, expected, options)
    folder = absolute_path(runs[0].run.path)
    if several:
        folder = array_folder(RunDirectory(folder), base)
    container = chosen_container(profile, request.container, required=not request.dry_run)
    if space is not None and container is None and profile.python is None and not request.dry_run:
        from phase2hpc.training.tuning.study import require_optuna

        require_optuna()  # the jobs have this Python
    folders = [train.models_dir, store.path.parent]
    if (initial := runs[0].config.init_from) is not None:
        folders.append(Path(initial))
    name = "" if profile.job_name else f"{train.algorithm}-{train.level}"
    job = job_script(profile, allocation, container, name, options, folders)
    _, parallel = at_once("--seeds", request.seeds)
    if request.tune is not None:
        _, parallel = at_once("--tune", request.tune)
    script = replace(
        job,
        folder=folder if several else folder / "job",
        count=len(runs) if several else None,
        array_parallelism=parallel or job.array_parallelism,
        extra=job.extra if space is None else "tune",
    )
    first = None
    if prepare_first:
        logs = absolute_path(train.models_dir) / f"{preparation.PREFIX}{base}"
        folders += _source_folders(request.sources)
        first = prepare_script(
            profile, level.resources, request.wanted, expected, container, options, folders
        )
        first = replace(first, folder=logs)
    return Plan(
        request=request,
        profile=profile,
        runs=tuple(runs),
        store=absolute_path(store.path),
        allocation=allocation,
        script=script,
        prepare=first,
        container=container,
        ensemble=base if several else None,
        space=space,
    )


def _uses_cuda(
    config: RunConfig, profile: Profile, wanted: ResourceOverrides, of_level: int
) -> bool:
    if config.runtime.device == "cpu":
        return False
    gpus = next(g for g in (wanted.gpus_per_node, profile.gpus, of_level) if g is not None)
    return config.runtime.device == "cuda" or (profile.executor == "slurm" and gpus > 0)


def absolute_sources(sources: Iterable[str]) -> list[str]:
    """Sources by absolute path, for a process with another working directory."""
    return [str(absolute_path(Path(s))) if Path(s).exists() else s for s in sources]


def _source_folders(sources: tuple[str, ...]) -> list[Path]:
    paths = [Path(source) for source in sources]
    return [path if path.is_dir() else path.parent for path in paths if path.exists()]
