"""From a request to what would be submitted: runs, resources and scripts. Nothing is written."""

from __future__ import annotations

import difflib
import logging
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phase2hpc.cluster import preparation
from phase2hpc.cluster.allocation import AUTO, Allocation, Wanted, allocate
from phase2hpc.cluster.container import PYTHON, checked_image, python_command
from phase2hpc.cluster.estimate import estimate, preset_of, store_size
from phase2hpc.cluster.executor import JobScript
from phase2hpc.cluster.members import Member, members
from phase2hpc.cluster.profiles import ContainerSettings, Profile, find_profile
from phase2hpc.cluster.sbatch_options import parameters_of, start_after, waited_for, with_options
from phase2hpc.cluster.slurm import partitions, slurm_available
from phase2hpc.config import RunConfig, algorithm_named, level_named
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.properties import GROUPS, PROPERTIES, canonical_name
from phase2hpc.resources import default_store
from phase2hpc.runs import PREFIX, RunDirectory, checked_run_id, family_folder, new_run_id
from phase2hpc.training.request import TrainRequest, new_config
from phase2hpc.training.resuming import resumed_config, run_to_resume

log = logging.getLogger(__name__)

# Stands in a --dry-run for the id that the first job would get.
ID_OF_PREPARE = "ID_OF_THE_FIRST_JOB"
PREPARE_MINUTES = 60


@dataclass(frozen=True)
class SubmitRequest:
    """What ``phase2hpc submit`` was asked for. sources: what a missing store is prepared from."""

    train: TrainRequest
    profile: str
    container: str | None = None
    wanted: Wanted = field(default_factory=Wanted)
    after: str | None = None
    seeds: str | None = None
    sweeps: tuple[str, ...] = ()
    sbatch: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """A run, its directory not there yet unless it is resumed, and its settings."""

    run: RunDirectory
    config: RunConfig
    member: Member


@dataclass(frozen=True)
class Plan:
    """All that ``submit`` does, decided. ``prepare``: the script of the first job, None where
    the store is there. ``ensemble``: id of the array's runs, None for one job."""

    request: SubmitRequest
    profile: Profile
    runs: tuple[PlannedRun, ...]
    store: Path
    allocation: Allocation
    script: JobScript
    prepare: JobScript | None
    ensemble: str | None
    dependencies: tuple[str, ...]

    @property
    def is_unlimited(self) -> bool:
        """Whether nobody set a time limit: here, without Slurm, an estimate is none."""
        profile = self.profile
        given = self.request.wanted.time != AUTO or profile.hours or profile.max_hours
        return profile.executor == "local" and not given

    @property
    def hours(self) -> float:
        return self.allocation.minutes / 60

    @property
    def signal_seconds(self) -> int:
        return self.allocation.signal_seconds(self.profile.signal_seconds)

    def script_after(self, prepare_id: str | None) -> JobScript:
        """The script with its dependencies, the first job's id among them."""
        ids = [*self.dependencies, *([prepare_id] if prepare_id else [])]
        return start_after(self.script, ids)


def make_plan(request: SubmitRequest) -> Plan:
    """Raises InputError for whatever is wrong in the request."""
    train = request.train
    profile, options = with_options(find_profile(request.profile), request.sbatch)
    profile = with_partition_limit(profile)
    level = level_named(algorithm_named(train.algorithm), train.level)
    found = members(request.seeds, request.sweeps)
    several = request.seeds is not None or bool(request.sweeps)
    if several and train.resume:
        raise InputError("--resume goes on with one run: leave --seeds and --sweep out")
    if request.seeds is not None and train.seed is not None:
        raise InputError("--seed and --seeds: give one of them")
    base = checked_run_id(train.run_id) if train.run_id and not train.resume else new_run_id()
    store = train.store or default_store()
    resumed = run_to_resume(train) if train.resume else None
    if resumed is not None:
        config = resumed_config(train, resumed)
        store = config.runtime.store or store
        runs = [PlannedRun(resumed, config, Member())]
    else:
        labels = _labels(store, train.properties)
        runs = [
            PlannedRun(
                _run_of(train, base + member.suffix), _config(train, store, labels, member), member
            )
            for member in found
        ]
    prepare_first = resumed is None and not store.exists()
    if request.sources and not prepare_first:
        raise InputError(f"--prepare: the store {store} is there already; leave it out")
    if prepare_first and train.store is not None and not request.sources:
        _refuse_likely_slip(store)
    is_sample = not request.sources and (train.store is None or prepare_first)
    size = store_size(store, is_sample=is_sample)
    config = runs[0].config
    done = resumed.read_manifest().epoch if resumed is not None else 0
    cuda = _uses_cuda(config, profile, request.wanted, level.resources.gpus)
    guess = None
    if size is not None:
        preset = preset_of(config)
        guess = estimate(config, preset, train.models_dir, size, cuda=cuda, done=done)
    allocation = allocate(level.resources, profile, request.wanted, guess)
    folder = runs[0].run.path if not several else runs[0].run.path.with_name(f"array_{base}")
    name = f"phase2hpc-{train.algorithm}-{train.level}"
    container = _container(request, profile)
    seen = [train.models_dir, store.parent]
    if config.init_from is not None:
        seen.append(Path(config.init_from))
    job = job_script(profile, allocation, container, name, options, seen)
    script = replace(
        job,
        folder=folder.resolve() if several else folder.resolve() / "job",
        count=len(runs) if several else None,
    )
    first = None
    if prepare_first:
        first = _prepare_job(job, train.models_dir, [*seen, *_source_folders(request.sources)],
                             profile, container, allocation, base)  # fmt: skip
    return Plan(
        request=request,
        profile=profile,
        runs=tuple(runs),
        store=store.resolve(),
        allocation=allocation,
        script=script,
        prepare=first and start_after(first, []),
        ensemble=base if several else None,
        dependencies=tuple(waited_for(request.after, train.models_dir)),
    )


def _config(train: TrainRequest, store: Path, labels: list[str], member: Member) -> RunConfig:
    for key in train.overrides.keys() & member.overrides.keys():
        raise InputError(f"--sweep {key}: {key} is given by itself too")
    seed = train.seed if member.seed is None else member.seed
    overrides = {**train.overrides, **member.overrides}
    return new_config(replace(train, seed=seed, overrides=overrides), store, labels)


def _run_of(train: TrainRequest, run_id: str) -> RunDirectory:
    family = train.models_dir / family_folder(train.algorithm, train.level)
    run = RunDirectory(family / (PREFIX + checked_run_id(run_id)))
    if run.path.exists():
        raise InputError(
            f"run '{run.id}' exists already in {family}: go on with it by --resume, or choose "
            "another --run-id"
        )
    if "%" in str(run.path.resolve()):
        raise InputError(f"{run.path.resolve()}: Slurm cannot write logs below a name with '%'")
    return run


def _labels(store: Path, properties: str | None) -> list[str]:
    """The label columns of the store; where it cannot be read here, those asked for: the node
    will know."""
    asked = [canonical_name(name.strip()) for name in (properties or "").split(",") if name.strip()]
    try:
        from phase2hpc.data.store_layout import read_info
    except ModuleNotFoundError:
        for name in set(asked) - PROPERTIES.keys() - GROUPS.keys():
            log.warning("whether the store has a column '%s' cannot be seen here (no h5py)", name)
        return [*PROPERTIES, *asked]
    return list(read_info(store).units) if store.exists() else [*PROPERTIES, *asked]


def with_partition_limit(profile: Profile) -> Profile:
    """The time limit of the partition where the profile has none: a job above it would wait for
    ever on most sites."""
    if profile.executor != "slurm" or profile.max_hours is not None or not slurm_available():
        return profile
    try:
        known = partitions()
    except Phase2Error as error:
        log.warning("the partitions' time limits cannot be asked for (%s)", error)
        return profile
    asked = (profile.partition or "").split(",")
    chosen = [p for p in known.values() if p.name in asked or (not profile.partition and p.default)]
    limits = [partition.max_hours for partition in chosen if partition.max_hours is not None]
    return profile.model_copy(update={"max_hours": min(limits)}) if limits else profile


def _refuse_likely_slip(store: Path) -> None:
    """A name that is nearly another store's is more likely misspelt than to be prepared."""
    others = [path.name for path in store.parent.glob("*.h5")]
    near = difflib.get_close_matches(store.name, others, n=1, cutoff=0.75)
    if near:
        raise InputError(
            f"no store {store}: did you mean {store.with_name(near[0])}? To prepare it first, say "
            "from what by --prepare SOURCE"
        )


def _uses_cuda(config: RunConfig, profile: Profile, wanted: Wanted, of_level: int) -> bool:
    if config.runtime.device == "cpu":
        return False
    gpus = next(g for g in (wanted.gpus_per_node, profile.gpus, of_level) if g is not None)
    return config.runtime.device == "cuda" or (profile.executor == "slurm" and gpus > 0)


def _container(request: SubmitRequest, profile: Profile) -> ContainerSettings | None:
    container = profile.container
    if request.container is not None:
        container = (
            container.model_copy(update={"image": request.container})
            if container
            else ContainerSettings(image=request.container)
        )
    return None if container is None else checked_image(container)


def _python(
    profile: Profile, container: ContainerSettings | None, gpus: bool, seen: list[Path]
) -> str:
    if container is None:
        return shlex.quote(profile.python or sys.executable)
    return python_command(
        container, profile.python or PYTHON, seen, gpus=gpus, environment=profile.environment
    )


def _python_name(profile: Profile, container: ContainerSettings | None) -> str:
    if container is None:
        return profile.python or sys.executable
    return f"{profile.python or PYTHON} in {container.image}"


def job_script(
    profile: Profile,
    allocation: Allocation,
    container: ContainerSettings | None,
    name: str,
    options: dict[str, Any],
    seen: list[Path],
) -> JobScript:
    """The script without its folder."""
    exports = [f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()]
    return JobScript(
        folder=Path(),
        python=_python(profile, container, allocation.gpus_per_node > 0, seen),
        python_name=_python_name(profile, container),
        parameters=parameters_of(profile, allocation, name, options),
        setup=(*profile.setup, *exports),
    )


def _prepare_job(
    job: JobScript,
    models_dir: Path,
    seen: list[Path],
    profile: Profile,
    container: ContainerSettings | None,
    allocation: Allocation,
    base: str,
) -> JobScript:
    """The first job: one process with the cores of one, no GPU."""
    minutes = PREPARE_MINUTES
    if profile.max_hours is not None:
        minutes = min(minutes, max(1, int(60 * profile.max_hours)))
    alone = replace(allocation, nodes=1, tasks_per_node=1, gpus_per_node=0, minutes=minutes)
    parameters = {
        **job.parameters,
        "job_name": "phase2hpc-prepare",
        "nodes": 1,
        "ntasks_per_node": 1,
        "time": minutes,
        "signal_delay_s": alone.signal_seconds(profile.signal_seconds),
    }
    for key in ("gres", "gpus_per_node", "gpus_per_task"):
        parameters.pop(key, None)
    return replace(
        job,
        folder=models_dir.resolve() / f"{preparation.PREFIX}{base}",
        python=_python(profile, container, False, seen),
        parameters=parameters,
    )


def _source_folders(sources: tuple[str, ...]) -> list[Path]:
    paths = [Path(source) for source in sources]
    return [path if path.is_dir() else path.parent for path in paths if path.exists()]
